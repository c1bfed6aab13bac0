"""What ``import isocenter`` gives: reconstruct a scan, look into one, run a bundle; without a server."""

import itertools
import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from ismrmrd.xsd import ismrmrdHeader
from numpy.typing import NDArray
from torch import Tensor

from ..bundle.manifest import Manifest
from ..engine import Engine
from ..flow.deferred import Deferred, settled
from ..gadgets import load as load_gadget
from ..gadgets.assembly import FrameCounter
from ..gadgets.estimate_coil_maps import MapsOptions, defer_maps
from ..gadgets.kspace import Kspace, block_of
from ..gadgets.model_inputs import arrange_inputs, arrange_output
from ..gadgets.scan import Scan
from ..pipelines import loader
from ..pipelines.loader import Pipeline
from ..pipelines.parameters import complaint
from ..service.chain import Chain
from ..service.configuration import pipeline_by_name, register_gadgets, substitution, with_parameters
from ..service.host import make_engine
from ..service.settings import Settings, load_settings
from ..service.timing import Timing
from ..wire.errors import DataError, IsocenterError, OptionError, PipelineError
from ..wire.files import MrdFile
from ..wire.header import NO_HEADER, Encoding, parse_encodings, parse_header
from ..wire.items import Acquisition, Image, Waveform, header_of, make_acquisition
from ..wire.plain_files import read_plain
from .find_bundle import find
from .prepare import build_if_missing

log: logging.Logger = logging.getLogger("isocenter.api")
logging.getLogger("isocenter").addHandler(logging.NullHandler())  # what it would say there is a warning here

Array = TypeVar("Array", NDArray[Any], Tensor)


class ReconstructionWarning(UserWarning):
    """Something about a scan that its images' reader must know."""


class OpenScan:
    """A recorded scan.

    Parameters
    ----------
    path
        MRD file (HDF5).
    group
        Group of the scan in the file.

    Attributes
    ----------
    header
        The parsed MRD header.
    encodings
        Its encoding spaces as plain numbers.

    Raises
    ------
    FileError
        It is no MRD file.
    HeaderError
        Its header cannot be used.
    """

    def __init__(self, path: str | Path, group: str = "dataset") -> None:
        self.path: Path = Path(path)
        self._file = MrdFile(self.path, group)
        self.header: ismrmrdHeader = parse_header(self._file.header)
        self.encodings: tuple[Encoding, ...] = parse_encodings(self.header)

    def __repr__(self) -> str:
        matrix = " x ".join(map(str, self.encodings[0].encoded_matrix))
        return f"<OpenScan {self.path.name}: {len(self)} acquisitions, encoded {matrix}>"

    def __len__(self) -> int:
        return self._file.acquisition_count

    @property
    def acquisitions(self) -> Iterator[Acquisition]:
        """The acquisitions, from the first one, read from the file as they are asked for."""
        return (item for item in self.items() if isinstance(item, Acquisition))

    def items(self) -> Iterator[Acquisition | Waveform]:
        """Acquisitions and waveforms in the order of their time stamps; those left out are a ``ReconstructionWarning``."""
        yield from self._file.items()
        for problem in self._file.problems:
            warnings.warn(problem, ReconstructionWarning, stacklevel=2)

    def kspace(
        self, *, frames: FrameCounter = "none", whiten: bool = True, oversampling: bool = False
    ) -> Iterator[Kspace]:
        """Iterate over the blocks of k-space, each as soon as it is complete.

        Parameters
        ----------
        frames
            Counter that becomes the dimension ``frames`` of one block.
        whiten
            Whether the scan's noise readouts, if it has any, whiten the channels.
        oversampling
            Whether the readout oversampling stays.

        Yields
        ------
        Kspace
            ``data`` complex64 [coils, frames, kz, ky, kx], ``mask`` bool [frames, kz, ky], ``calibration`` complex64
            [coils, kz, ky, kx] or None. What is wrong with the scan is a ``ReconstructionWarning``.
        """
        if frames not in get_args(FrameCounter):
            raise OptionError(f"frames is {frames!r}", accepted=", ".join(get_args(FrameCounter)))
        scan = Scan(self.header)
        stream: Any = load_gadget("accumulate")(self.items(), scan, frames=frames)
        if whiten:
            stream = load_gadget("prewhiten")(stream, scan)
        if not oversampling:
            stream = load_gadget("remove_oversampling")(stream, scan)
        yield from (item for item in stream if isinstance(item, Kspace))
        _warn(scan)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "OpenScan":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def open_scan(path: str | Path, group: str = "dataset") -> OpenScan:
    """Open a recorded scan (MRD, HDF5); see ``OpenScan``."""
    return OpenScan(path, group)


def reconstruct(
    scan: str | Path | OpenScan | tuple[str | bytes | ismrmrdHeader, Iterable[Acquisition | Waveform]],
    pipeline: str | Path = "sense.xml",
    *,
    settings: Settings | None = None,
    **parameters: Any,
) -> list[Image]:
    """Reconstruct a scan in this process: the images that a service sends for it, in the same order.

    Parameters
    ----------
    scan
        MRD file, or what ``open_scan`` returned, or an MRD header (XML or parsed) with its acquisitions and waveforms, which are
        not changed.
    pipeline
        Name of a pipeline, as on a server, or the path of a pipeline's XML.
    settings
        Of the service; those of ``isocenter serve`` without a settings file by default.
    parameters
        What a scanner's user would choose of the pipeline, such as ``bundle="modl-brain"``; ``isocenter pipelines show NAME``
        lists what there is. One that nothing reads is a ``ReconstructionWarning``.

    Returns
    -------
    list of ismrmrd.Image
        Data [channels, z, y, x]; what made each image stands in its meta attributes. A bundle that comes with Isocenter and
        is missing is built first, which takes seconds to minutes.

    Raises
    ------
    PipelineError, OptionError, FileError, HeaderError, BundleError
        The pipeline, the file, its header or a bundle cannot be used.
    IsocenterError
        No image could be made.

    Warns
    -----
    ReconstructionWarning
        For every problem that a service's client would be told.
    """
    if isinstance(scan, str | Path):
        with OpenScan(scan) as opened:
            return reconstruct(opened, pipeline, settings=settings, **parameters)
    settings = settings or load_settings(None)
    register_gadgets(settings)
    header, items = _header_and_items(scan)
    chosen = with_parameters(_find_pipeline(pipeline, settings), parameters, settings, log)
    for text in filter(None, (substitution(chosen), complaint(chosen, parameters))):
        warnings.warn(text, ReconstructionWarning, stacklevel=2)
    engine = _engine(settings)
    context = Scan(
        header, engine=engine, noise_folder=settings.noise_folder, device=engine.device, parameters=parameters
    )
    chain = Chain(chosen, context, engine)
    for name in itertools.chain.from_iterable(chain.bundles()):
        build_if_missing(name, settings, engine.available())
    timing = Timing()

    def stream() -> Iterator[Acquisition | Waveform]:
        for item in items:
            timing.received(item)
            yield item

    output = chain.process(stream(), settings, timing, lambda text: warnings.warn(text, ReconstructionWarning, 2))
    images = [item for item in output if isinstance(item, Image)]
    _warn(context)
    if not images and chain.makes_images:
        what = "no image was made" if timing.acquisitions else "the scan holds no data"
        raise IsocenterError("; ".join([what, *context.problem_messages()]))
    return images


class LoadedBundle:
    """A bundle that passed its probe here.

    Attributes
    ----------
    manifest
        What it takes, returns, was made for and from.
    """

    def __init__(self, name: str, engine: Engine) -> None:
        self._model = engine.load(name)
        self._engine = engine
        self.manifest: Manifest = self._model.manifest

    def __repr__(self) -> str:
        inputs = ", ".join(spec.name for spec in self.manifest.inputs)
        return f"<bundle {self.manifest.name} {self.manifest.version}: {self.manifest.network} of {inputs}>"

    def run(self, kspace: Array, mask: Array, maps: Array | None = None, *, regularization: float = 1.0) -> Array:
        """Reconstruct one block.

        Parameters
        ----------
        kspace
            complex64 [coils, frames, kz, ky, kx], centred, zero where nothing was measured; readout oversampling removed.
        mask
            bool [frames, kz, ky], true where a line was measured.
        maps
            complex64 [coils, kz, ky, kx], coil sensitivity maps in image space with unit norm over the coils. Where the bundle
            takes maps and none are given, they are estimated from the fully sampled middle (ESPIRiT, Uecker et al., MRM
            2014;71:990).
        regularization
            What the bundle's own strength is multiplied by, where it takes that (its inputs name it).

        Returns
        -------
        numpy.ndarray or torch.Tensor, as ``kspace`` is
            complex64 or float32 [frames, z, y, x].

        Raises
        ------
        DataError
            The shapes do not fit, or there are too few calibration lines for coil maps.
        BundleError
            The bundle fails its probe here.
        """
        block = _block(_tensor(kspace, torch.complex64), _tensor(mask, torch.bool))
        if any(spec.name == "maps" for spec in self.manifest.inputs):
            block.coil_maps = self._maps(block, maps)
        inputs = settled(arrange_inputs(self.manifest, block, regularization))
        outputs = self._engine.run(self.manifest.name, inputs)
        image = arrange_output(self.manifest, outputs["image"], block)
        return image.numpy() if isinstance(kspace, np.ndarray) else image  # type: ignore[return-value]

    def _maps(self, block: Kspace, maps: Any) -> Deferred:
        if maps is None:
            return defer_maps(block, MapsOptions(), Scan(NO_HEADER), begin=False)
        given = _tensor(maps, torch.complex64)
        expected = (block.data.shape[0], *block.data.shape[2:])
        if given.shape != expected:
            raise DataError(f"maps have the shape {tuple(given.shape)}", accepted=f"[coils, kz, ky, kx] of {expected}")
        return Deferred.known(given)


def load_bundle(name: str | Path, *, settings: Settings | None = None) -> LoadedBundle:
    """Load a bundle by its name, as pipelines name it, or the path of its folder.

    Raises
    ------
    BundleError
        There is none, or it is damaged.
    """
    settings = settings or load_settings(None)
    folder = find(name, settings)
    if folder != Path(name):
        return LoadedBundle(str(name), _engine(settings))
    folder = folder.resolve()
    return LoadedBundle(
        folder.name, _engine(settings.model_copy(update={"bundles": (folder.parent, *settings.bundles)}))
    )


def _header_and_items(scan: Any) -> tuple[Any, Iterable[Acquisition | Waveform]]:
    if isinstance(scan, OpenScan):
        return scan.header, scan.items()  # made anew from the file
    if not isinstance(scan, tuple) or len(scan) != 2:
        raise DataError(
            f"the scan is a {type(scan).__name__}", accepted="a path, what open_scan returns, or (header, acquisitions)"
        )
    header, items = scan
    return header, _copies(items)


def _find_pipeline(pipeline: str | Path, settings: Settings) -> Pipeline:
    path = Path(pipeline)
    if path.name != str(pipeline) and not path.is_file():
        raise PipelineError(f"there is no file {path}")
    if path.suffix == ".xml" and path.is_file():
        return loader.parse(read_plain(path), path.name, (path.parent, *settings.pipeline_folders))
    return pipeline_by_name(str(pipeline), settings, log)


def _copies(items: Iterable[Acquisition | Waveform]) -> Iterator[Acquisition | Waveform]:
    """Copies of acquisitions: gadgets whiten and crop in place."""
    for item in items:
        if isinstance(item, Acquisition):
            header = type(header_of(item)).from_buffer_copy(header_of(item))
            yield make_acquisition(header, item.data.copy(), item.traj)
        else:
            yield item


def _warn(scan: Scan) -> None:
    for message in scan.problem_messages():
        warnings.warn(message, ReconstructionWarning, stacklevel=3)


_engines: dict[str, Engine] = {}


def _engine(settings: Settings) -> Engine:
    """Return the engine for these settings; it stays, with the bundles that it has loaded."""
    key = settings.model_dump_json()
    if key not in _engines:
        _engines[key] = make_engine(settings)
    return _engines[key]


def _tensor(array: Any, dtype: torch.dtype) -> Tensor:
    if isinstance(array, Tensor):
        return array.to(dtype)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "bifc":
        raise DataError(f"an input is a {type(array).__name__}", accepted="arrays of numbers, of numpy or torch")
    # whatever order its bytes and axes are in
    return torch.from_numpy(np.ascontiguousarray(array, np.complex64 if dtype.is_complex else np.bool_))


def _block(data: Tensor, mask: Tensor) -> Kspace:
    if data.dim() != 5:
        raise DataError(f"kspace has the shape {tuple(data.shape)}", accepted="[coils, frames, kz, ky, kx]")
    _, frames, partitions, lines, _ = data.shape
    if mask.shape != (frames, partitions, lines):
        raise DataError(
            f"mask has the shape {tuple(mask.shape)}", accepted=f"[frames, kz, ky] of {(frames, partitions, lines)}"
        )
    if min(data.shape) < 1 or not torch.isfinite(torch.view_as_real(data)).all():
        raise DataError(f"kspace of shape {tuple(data.shape)} is empty or holds NaN or infinite samples")
    return block_of(data, mask)
