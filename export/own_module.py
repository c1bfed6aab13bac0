"""Export somebody's own ``torch.nn.Module``, once it is known what it takes and returns."""

import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..bundle.axes import shape_of
from ..bundle.folder import Bundle
from ..bundle.manifest import BundleError, TensorSpec
from ..bundle.minisign import SecretKey
from .boundary import Form, Image, bounded
from .build import DEFAULT_FORMATS
from .cases import SIZES, edge_cases, make_case
from .compose import compose_bundle
from .importers.errors import CheckpointError
from .importers.files import read_checkpoint
from .importers.load import load_state
from .options import Direction, ExportOptions

_NAMES = {
    "kspace": ("kspace", "masked_kspace", "undersampled_kspace", "kspace_masked", "kspace_undersampled"),
    "mask": ("mask", "sampling_mask", "undersampling_mask"),
    "maps": ("maps", "coil_maps", "sens_maps", "sensitivity_maps", "csm", "smaps", "sensitivities"),
}
"""What the inputs of a bundle are called, and what else."""
_ROLES = {name: role for role, names in {**_NAMES, "image": ("image", "zero_filled")}.items() for name in names}
_TRIAL = SIZES[1][0]
"""All lengths differ, so that axes are known by them."""


def export_module(
    target: str,
    checkpoint: Path | None,
    folder: Path,
    options: ExportOptions,
    formats: Sequence[str] = DEFAULT_FORMATS,
    key: SecretKey | None = None,
) -> Bundle:
    """Write the bundle of somebody's own ``torch.nn.Module``.

    Its inputs are those that ``options`` names, or else the arguments of ``forward`` that are called ``kspace``, ``mask`` and
    ``maps``, or have another common name of these; it may also take the zero-filled image. Whether it takes complex tensors
    and a boolean mask is tried.

    Parameters
    ----------
    target
        ``package.module:Class``, or a function that returns the module.
    checkpoint
        Its weights; None: as it is made.
    folder, options, formats, key
        As in ``export_network``.

    Raises
    ------
    CheckpointError
        The module cannot be made, or the checkpoint does not fit.
    BundleError
        The bundle cannot be written, or a runtime deviates.
    """
    module = _make_module(target, options.arguments)
    if checkpoint is not None:
        _load_own(module, checkpoint)
    arguments = _named(options.inputs, target) if options.inputs else _guess_arguments(module, target, options)
    inputs = _bundle_inputs(arguments, target, options)
    form, output = _find_form(module.eval(), target, arguments, inputs, options)
    return compose_bundle(
        bounded(module, form),
        folder,
        options,
        formats,
        network=target,
        configuration=options.arguments,
        inputs=inputs,
        output=output,
        scaling=options.scaling or "none",
        checkpoint=checkpoint,
        source=target,
        key=key,
    )


def _make_module(target: str, arguments: dict[str, Any]) -> nn.Module:
    package, _, name = target.partition(":")
    if not name:
        raise CheckpointError(f"--module is {target!r}", accepted="package.module:Class")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        make = getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"{target} cannot be imported from {Path.cwd()}: {error}") from error
    try:
        module = make(**arguments)
    except TypeError as error:
        raise CheckpointError(
            f"{target} cannot be made with arguments {arguments} (configuration 'arguments'): {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise CheckpointError(f"{target} made a {type(module).__name__}, which is no torch.nn.Module")
    return module


def _load_own(module: nn.Module, path: Path) -> None:
    """Load a state dict; a prefix that all its names share and the module does not have is taken off, as Lightning adds one."""
    tensors = read_checkpoint(path).tensors
    names = set(module.state_dict())
    if not names & set(tensors):
        prefixes = {key.split(".", 1)[0] + "." for key in tensors}
        for prefix in sorted(prefixes):
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if names & set(own):
                tensors = own
                break
    load_state(module, tensors, path)


def _named(specs: tuple[TensorSpec, ...], target: str) -> tuple[TensorSpec, ...]:
    """Check the inputs that the user names, in the order of the module's arguments."""
    unknown = [spec.name for spec in specs if spec.name not in _ROLES]
    if unknown:
        raise BundleError(
            f"inputs {', '.join(unknown)} are not known. A name says what is passed, whatever the argument of forward is called",
            where=target,
            accepted=f"{', '.join(_NAMES)} and image",
        )
    specs = tuple(spec.model_copy(update={"name": _ROLES[spec.name]}) for spec in specs)
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names) or not {"kspace", "image"} & set(names):
        raise BundleError(
            f"inputs are {', '.join(names)}",
            where=target,
            accepted="kspace or image, and mask and maps, each at most once",
        )
    for spec in specs:
        if spec.axes[:1] != ("batch",):
            raise BundleError(
                f"the axes of {spec.name} are {list(spec.axes)}; the first one must be 'batch'", where=target
            )
        if spec.name in ("kspace", "maps") and ("coils" not in spec.axes or spec.axes[-1] != "complex"):
            raise BundleError(
                f"{spec.name} has the axes {list(spec.axes)}; it needs 'coils', and 'complex' as the last one, also where the "
                "module takes complex tensors",
                where=target,
            )
    return specs


def _guess_arguments(module: nn.Module, target: str, options: ExportOptions) -> tuple[TensorSpec, ...]:
    plane: tuple[Direction, Direction] = options.plane or ("ky", "kx")
    undersampled = options.undersampled or ("ky",)
    data = ("batch", "coils", *plane, "complex")
    axes = {
        "kspace": data,
        "mask": ("batch", "1", *(axis if axis in undersampled else "1" for axis in plane), "1"),
        "maps": data,
    }
    parameters = [
        parameter.name
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.default is inspect.Parameter.empty or parameter.name in _ROLES
    ]
    roles = [_ROLES.get(name) for name in parameters]
    unknown = [name for name, role in zip(parameters, roles, strict=True) if role is None]
    if unknown or "kspace" not in roles:
        raise BundleError(
            f"{target}.forward takes {', '.join(unknown or parameters) or 'nothing'}; say what its arguments are, in their "
            "order, with their axes in the configuration (inputs: [{name: kspace, axes: [batch, coils, ky, kx, complex]}, ...])"
        )
    return tuple(TensorSpec(name=role, axes=axes[role]) for role in roles if role is not None)


def _bundle_inputs(arguments: tuple[TensorSpec, ...], target: str, options: ExportOptions) -> tuple[TensorSpec, ...]:
    """Inputs of the bundle: in the usual order, the mask as it broadcasts against k-space, and what wraps the module."""
    given = {spec.name: spec for spec in arguments}
    if "image" in given:
        axes = given["image"].axes
        spatial = tuple(axis for axis in axes if axis not in ("batch", "1", "complex"))
        given.setdefault("kspace", TensorSpec(name="kspace", axes=("batch", "coils", *spatial, "complex")))
        if "complex" in axes:
            plane = tuple(axis for axis in spatial if axis != "frames")
            given.setdefault("maps", TensorSpec(name="maps", axes=("batch", "coils", *plane, "complex")))
    kspace = given["kspace"].axes
    wrapped = options.scaling not in (None, "none") or options.sense_step is not None
    if wrapped and tuple(axis for axis in kspace if axis not in ("ky", "kx")) not in (
        ("batch", "coils", "complex"),
        ("batch", "coils", "frames", "complex"),
    ):
        raise BundleError(
            f"k-space of axes {list(kspace)} cannot be scaled, or end with SENSE",
            where=target,
            accepted="batch, coils, (frames,) the plane, complex",
        )
    if options.sense_step is not None:
        given.setdefault("maps", TensorSpec(name="maps", axes=tuple(axis for axis in kspace if axis != "frames")))
    if wrapped or "mask" in given:
        named = given["mask"].axes if "mask" in given else ("batch", "frames", *(options.undersampled or ("ky",)))
        given["mask"] = TensorSpec(name="mask", axes=tuple(axis if axis in named else "1" for axis in kspace))
    return tuple(given[name] for name in _NAMES if name in given)


def _mask_axes(arguments: tuple[TensorSpec, ...], inputs: tuple[TensorSpec, ...], is_complex: bool) -> tuple[int, ...]:
    have = next((spec.axes for spec in inputs if spec.name == "mask"), ())
    wanted = next((spec.axes for spec in arguments if spec.name == "mask"), have)
    if is_complex and len(wanted) == len(have):
        wanted = wanted[:-1]
    kspace = inputs[0].axes
    unknown = [axis for axis in wanted if axis not in (*kspace, "1")]
    if unknown:
        raise BundleError(f"the mask has axes {', '.join(unknown)}, which k-space does not have: {', '.join(kspace)}")
    places = tuple(-1 if axis == "1" else have.index(axis) for axis in wanted)
    named = [place for place in places if place >= 0]
    if named != sorted(named):
        raise BundleError(f"the mask's axes {list(wanted)} are in another order than those of k-space")
    return places


def _find_form(
    module: nn.Module,
    target: str,
    arguments: tuple[TensorSpec, ...],
    inputs: tuple[TensorSpec, ...],
    options: ExportOptions,
) -> tuple[Form, TensorSpec]:
    """Run the module on every form of its inputs that it may expect; return the one that works, and the bundle's output."""
    image = _image_form(arguments, target)
    case = make_case(inputs, _TRIAL)
    failures: dict[str, Exception] = {}
    found = []
    for is_complex in _tensor_kinds(arguments, options):
        how = "complex tensors" if is_complex else "real tensors"
        for form in _forms(arguments, inputs, is_complex, image):
            try:
                with torch.no_grad():
                    output = bounded(module, form)(*case.values())
                found.append(_with_output(form, output, inputs, options))
                break
            except Exception as error:  # noqa: BLE001  (it is not our module)
                failures.setdefault(how, error)
    if not found:
        shapes = {name: tuple(tensor.shape) for name, tensor in case.items()}
        ran = {how: error for how, error in failures.items() if isinstance(error, BundleError)}
        reasons = "; ".join(f"with {how}: {_short(error)}" for how, error in (ran or failures).items())
        raise BundleError(f"{target} does not run on {shapes}. {reasons}")
    if len(found) > 1:
        raise BundleError(
            f"{target} runs on real and on complex tensors; say in the configuration which it is for (complex_tensors: ...)"
        )
    form, output = found[0]
    zeros = edge_cases(inputs, _TRIAL)["an all-zero slice"]
    with torch.no_grad():
        finite = torch.isfinite(bounded(module, form)(*zeros.values())).all()
    return replace(form, guarded=not finite), output


def _tensor_kinds(arguments: tuple[TensorSpec, ...], options: ExportOptions) -> tuple[bool, ...]:
    """Whether complex tensors are tried: not where real and imaginary part are channels, or nothing is complex."""
    if all(spec.axes[-1] != "complex" for spec in arguments):
        return (False,)
    return (False, True) if options.complex_tensors is None else (options.complex_tensors,)


def _image_form(arguments: tuple[TensorSpec, ...], target: str) -> Image:
    axes = next((spec.axes for spec in arguments if spec.name == "image"), ())
    spatial = tuple(axis for axis in axes if axis not in ("batch", "1", "complex"))
    known: dict[tuple[str, ...], Image] = {
        (): "",
        ("batch", *spatial): "magnitude",
        ("batch", "1", *spatial): "magnitude channel",
        ("batch", *spatial, "complex"): "complex",
        ("batch", "complex", *spatial): "complex channels",
    }
    if axes not in known:
        accepted = ", ".join(str(list(form)) for form in known if form)
        raise BundleError(f"the image has the axes {list(axes)}", where=target, accepted=accepted)
    return known[axes]


def _forms(
    arguments: tuple[TensorSpec, ...], inputs: tuple[TensorSpec, ...], is_complex: bool, image: Image
) -> Iterator[Form]:
    names = tuple(spec.name for spec in arguments)
    for boolean in (False, True) if "mask" in names else (False,):
        yield Form(
            tuple(spec.name for spec in inputs),
            names,
            complex_tensors=is_complex,
            boolean_mask=boolean,
            mask_axes=_mask_axes(arguments, inputs, is_complex),
            image=image,
        )


def _short(error: Exception) -> str:
    if isinstance(error, BundleError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _with_output(
    form: Form, output: Tensor, inputs: tuple[TensorSpec, ...], options: ExportOptions
) -> tuple[Form, TensorSpec]:
    """Find the axes of the output by their lengths; the bundle returns it without channels, real and imaginary part last."""
    spatial = tuple(axis for axis in inputs[0].axes[1:] if axis not in ("coils", "complex"))
    known = {
        ("batch", *spatial): form,
        ("batch", *spatial, "complex"): form,
        ("batch", "1", *spatial): replace(form, channel=True),
        ("batch", "1", *spatial, "complex"): replace(form, channel=True),
        ("batch", "complex", *spatial): replace(form, complex_channels=True),
    }
    if options.outputs is not None:
        known = {axes: how for axes, how in known.items() if axes == options.outputs[0].axes}
    for axes, how in known.items():
        if list(output.shape) == shape_of(TensorSpec(name="image", axes=axes), _TRIAL):
            kept = [axis for axis in axes if axis not in ("1", "complex")]
            return how, TensorSpec(name="image", axes=(*kept, *(("complex",) if "complex" in axes else ())))
    raise BundleError(
        f"it returns {tuple(output.shape)} for {_TRIAL}",
        accepted=f"magnitudes [batch, {', '.join(spatial)}] and complex images, with an axis of channels after the batch or "
        "without; cropping is the pipeline's work",
    )
