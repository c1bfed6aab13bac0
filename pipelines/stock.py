"""Gadgetron's stock Cartesian gadgets in terms of ours.

Gadgetron whitens, crops and compresses readout by readout and buffers afterwards. Our ``accumulate`` comes first and the
same steps run on whole blocks, which gives the same numbers sooner; where another program stands in the chain, the steps
before it stay before it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..wire.errors import PipelineError

READERS = {
    "AcquisitionReader",
    "WaveformReader",
    "ImageReader",
    "BufferReader",
    "ImageArrayReader",
    "AcquisitionBucketReader",
    "GadgetIsmrmrdAcquisitionMessageReader",
    "GadgetIsmrmrdWaveformMessageReader",
    "MRIImageReader",
}
WRITERS = {
    "AcquisitionWriter",
    "WaveformWriter",
    "ImageWriter",
    "BufferWriter",
    "ImageArrayWriter",
    "AcquisitionBucketWriter",
    "GadgetIsmrmrdAcquisitionMessageWriter",
    "GadgetIsmrmrdWaveformMessageWriter",
    "MRIImageWriter",
    "DependencyQueryWriter",
    "TextWriter",
}

Options = dict[str, str]
Entry = tuple[str, Options]
Properties = Mapping[str, str]

_DIAGNOSTICS = {"debug_folder", "perform_timing", "verbose", "using_cloud", "skip_processing_meta_field"}


class NoCounterpartError(PipelineError):
    """Something of Gadgetron's, such as a gadget or a property of one, that has no counterpart here."""


class Translator:
    """Collects the nodes of a stream and puts them in the order in which they run here."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._entries: list[Any] = []
        self._segment_start = 0
        self._trigger: str | None = None

    def add(self, classname: str, properties: Properties, where: str) -> None:
        """Translate a stock gadget; ``where`` it is goes with its steps.

        Raises
        ------
        NoCounterpartError
            There is no counterpart.
        """
        if classname == "AcquisitionAccumulateTriggerGadget":
            self._trigger = _trigger(properties)
            self._entries.insert(self._segment_start, ("accumulate", {"trigger": self._trigger}, where))
        elif classname == "BucketToBufferGadget":
            self._buffer(properties)
        elif classname == "GenericReconCartesianReferencePrepGadget":
            fill = properties.get("ref_fill_into_data_embedded", "false")
            self._update_accumulate({"fill_calibration": fill})
        elif classname in _TRANSLATIONS:
            translate, accepted = _TRANSLATIONS[classname]
            unknown = [key for key in properties if key not in accepted | _DIAGNOSTICS]
            if unknown:
                known = ", ".join(sorted(accepted)) or "none"
                raise NoCounterpartError(
                    f"property {unknown[0]!r} of {classname} has no counterpart here; accepted are: {known}"
                )
            self._entries += [(*entry, where) for entry in translate(properties)]
        else:
            raise NoCounterpartError(
                f"gadget {classname!r} has no counterpart here", accepted=", ".join(sorted(CLASSES))
            )

    def _buffer(self, properties: Properties) -> None:
        for key in ("N_dimension", "S_dimension"):
            if properties.get(key, "") not in (
                "",
                "none",
                "average",
                "contrast",
                "phase",
                "repetition",
                "set",
                "segment",
                "slice",
            ):
                raise NoCounterpartError(f"{key} {properties[key]!r} of BucketToBufferGadget has no counterpart here")
        self._update_accumulate({"frames": "average", "fill_calibration": "false"})

    def _update_accumulate(self, options: Options) -> None:
        for name, present, _ in (entry for entry in self._entries if isinstance(entry, tuple)):
            if name == "accumulate":
                present.update(options)
                return
        if self._trigger is None and self._segment_start == 0:
            raise NoCounterpartError(
                "AcquisitionAccumulateTriggerGadget must come before the gadgets that need buffered data"
            )

    def add_steps(self, steps: list[Any]) -> None:
        """Add steps that are translated already; what comes later stays behind them."""
        self._entries += steps
        self._segment_start = len(self._entries)

    def finish(self) -> list[Any]:
        """Return ``(gadget, options, where)`` and steps, in order."""
        return self._entries


def _trigger(properties: Properties) -> str:
    dimension = properties.get("trigger_dimension", "")
    if dimension in ("", "none"):
        return "end"
    if dimension not in ("average", "slice", "contrast", "phase", "repetition", "set", "segment"):
        raise NoCounterpartError(f"trigger_dimension {dimension!r} has no counterpart here")
    return dimension


def _nothing(_properties: Properties) -> list[Entry]:
    return []


def _one(name: str, **fixed: str) -> Callable[[Properties], list[Entry]]:
    return lambda _properties: [(name, dict(fixed))]


def _number(properties: Properties, key: str, default: str) -> float:
    text = properties.get(key, default)
    try:
        return float(text)
    except ValueError as error:
        raise PipelineError(f"property {key!r} is {text[:40]!r}", accepted="a number") from error


def _whole_number(properties: Properties, key: str, default: str) -> int:
    value = _number(properties, key, default)
    if not value.is_integer():
        raise PipelineError(f"property {key!r} is {properties[key][:40]!r}", accepted="a whole number")
    return int(value)


def _pass(name: str, *keys: str) -> Callable[[Properties], list[Entry]]:
    return lambda properties: [(name, {key: properties[key] for key in keys if key in properties})]


def _simple_recon(_properties: Properties) -> list[Entry]:
    return [("reconstruct", {"bundle": "rss", "series": "0", "numbering": "running"})]


def _generic_recon(bundle: str, method: str) -> Callable[[Properties], list[Entry]]:
    def translate(properties: Properties) -> list[Entry]:
        if (
            properties.get("send_out_gfactor", "false") == "true"
            or properties.get("send_out_snr_map", "false") == "true"
        ):
            raise NoCounterpartError("g-factor and SNR maps have no counterpart here")
        series = str(_whole_number(properties, "image_series", "0") + 1)
        return [("estimate_coil_maps", {"method": method}), ("reconstruct", {"bundle": bundle, "series": series})]

    return translate


def _eigen_channel(properties: Properties) -> list[Entry]:
    if properties.get("upstream_coil_compression", "true") != "true":
        return []
    kept = _whole_number(properties, "upstream_coil_compression_num_modesKept", "0")
    threshold = _number(properties, "upstream_coil_compression_thres", "-1")
    return [("compress_coils", {"coils": str(max(kept, 0)), "tolerance": str(max(threshold, 0.0))})]


def _kspace_filter(properties: Properties) -> list[Entry]:
    options = {
        "readout": properties.get("filterRO", "Gaussian"),
        "phase": properties.get("filterE1", "Gaussian"),
        "partition": properties.get("filterE2", "Gaussian"),
        "sigma": properties.get("filterRO_sigma", "1.0"),
        "width": properties.get("filterRO_width", "0.15"),
    }
    for axis in ("E1", "E2"):
        for key, option in (("sigma", "sigma"), ("width", "width")):
            of_readout = _number(properties, f"filterRO_{key}", options[option])
            if _number(properties, f"filter{axis}_{key}", options[option]) != of_readout:
                raise NoCounterpartError(f"filter{axis}_{key} must equal filterRO_{key} here")
    return [("filter_kspace", options)]


def _array_scaling(properties: Properties) -> list[Entry]:
    if properties.get("use_constant_scalingFactor", "true") == "true":
        return [("scale", {"factor": properties.get("scalingFactor", "4.0")})]
    once = properties.get("auto_scaling_only_once", "true")
    return [("scale", {"target": "2048", "percentile": "100", "once": once})]


def _extract(properties: Properties) -> list[Entry]:
    names = {
        "extract_magnitude": "magnitude",
        "extract_real": "real",
        "extract_imag": "imaginary",
        "extract_phase": "phase",
    }
    options = {
        ours: properties.get(theirs, "true" if ours == "magnitude" else "false") for theirs, ours in names.items()
    }
    mask = _whole_number(properties, "extract_mask", "0")
    for bit, ours in enumerate(("magnitude", "real", "imaginary", "phase")):
        if mask & (1 << bit):
            options[ours] = "true"
    options["phase_offset"] = "3.141592653589793"
    options["real_imag_offset"] = properties.get("real_imag_offset", "0")
    return [("extract", options)]


def _to_integer(dtype: str, low: str, high: str, offset: str) -> Callable[[Properties], list[Entry]]:
    def translate(properties: Properties) -> list[Entry]:
        options = {
            "dtype": dtype,
            "min_intensity": properties.get("min_intensity", low),
            "max_intensity": properties.get("max_intensity", high),
            "intensity_offset": properties.get("intensity_offset", offset),
        }
        return [("to_integer", options)]

    return translate


_INTEGER_PROPERTIES = {"min_intensity", "max_intensity", "intensity_offset"}
_GENERIC_PROPERTIES = {
    "image_series",
    "coil_map_algorithm",
    "downstream_coil_compression",
    "downstream_coil_compression_thres",
    "downstream_coil_compression_num_modesKept",
    "send_out_gfactor",
    "send_out_snr_map",
    "coil_map_kernel_size_readout",
    "coil_map_kernel_size_phase",
    "coil_map_num_iter",
    "coil_map_thres_iter",
    "use_gpu",
}
_GRAPPA_PROPERTIES = {
    "grappa_kSize_RO",
    "grappa_kSize_E1",
    "grappa_kSize_E2",
    "grappa_reg_lamda",
    "grappa_calib_over_determine_ratio",
}
_FILTER_PROPERTIES = {f"filter{axis}{suffix}" for axis in ("RO", "E1", "E2") for suffix in ("", "_sigma", "_width")}
_PARTIAL_PROPERTIES = {f"partial_fourier_filter_{key}" for key in ("RO_width", "E1_width", "E2_width", "densityComp")}
_SCALING_PROPERTIES = {
    "min_intensity_value",
    "max_intensity_value",
    "scalingFactor",
    "use_constant_scalingFactor",
    "auto_scaling_only_once",
    "scalingFactor_dedicated",
    "use_dedicated_scalingFactor_meta_field",
    "scalingFactor_gfactor_map",
    "scalingFactor_snr_map",
    "scalingFactor_snr_std_map",
}
_EIGEN_PROPERTIES = {
    "average_all_ref_N",
    "average_all_ref_S",
    "upstream_coil_compression",
    "upstream_coil_compression_thres",
    "upstream_coil_compression_num_modesKept",
}

_TRANSLATIONS: dict[str, tuple[Callable[[Properties], list[Entry]], set[str]]] = {
    "NoiseAdjustGadget": (
        _pass("prewhiten", "pass_nonconformant_data"),
        {"pass_nonconformant_data", "noise_dependency_prefix", "perform_noise_adjust"},
    ),
    "NoiseSummaryGadget": (_pass("noise_summary", "noise_file"), {"noise_file"}),
    "PCACoilGadget": (_one("compress_coils"), {"uncombined_channels_by_name", "present_uncombined_channels"}),
    "CoilReductionGadget": (_pass("select_coils", "coils_out"), {"coils_out"}),
    "AsymmetricEchoAdjustROGadget": (_one("pad_asymmetric_echo"), set()),
    "RemoveROOversamplingGadget": (_one("remove_oversampling"), set()),
    "SimpleReconGadget": (_simple_recon, set()),
    "GenericReconEigenChannelGadget": (_eigen_channel, _EIGEN_PROPERTIES),
    "GenericReconCartesianGrappaGadget": (_generic_recon("sense", "espirit"), _GENERIC_PROPERTIES | _GRAPPA_PROPERTIES),
    "GenericReconCartesianFFTGadget": (_generic_recon("combine", "adaptive"), _GENERIC_PROPERTIES),
    "GenericReconPartialFourierHandlingFilterGadget": (
        lambda p: [("filter_partial_fourier", {"width": p.get("partial_fourier_filter_E1_width", "0.15")})],
        _PARTIAL_PROPERTIES,
    ),
    "GenericReconKSpaceFilteringGadget": (_kspace_filter, _FILTER_PROPERTIES),
    "GenericReconFieldOfViewAdjustmentGadget": (_one("adjust_field_of_view"), set()),
    "GenericReconImageArrayScalingGadget": (_array_scaling, _SCALING_PROPERTIES),
    "ImageArraySplitGadget": (_nothing, set()),
    "ExtractGadget": (
        _extract,
        {"extract_mask", "extract_magnitude", "extract_real", "extract_imag", "extract_phase", "real_imag_offset"},
    ),
    "ComplexToFloatGadget": (_one("complex_to_float"), set()),
    "AutoScaleGadget": (
        lambda p: [("scale", {"target": p.get("max_value", "2048"), "percentile": "99", "once": "false"})],
        {"max_value"},
    ),
    "FloatToUShortGadget": (_to_integer("uint16", "0", "4095", "2048"), _INTEGER_PROPERTIES),
    "FloatToShortGadget": (_to_integer("int16", "-32768", "32767", "0"), _INTEGER_PROPERTIES),
    "AugmentImageMetadataGadget": (_nothing, set()),  # images say their directions in any case
    "ImageFinishGadget": (_nothing, set()),
}

CLASSES = {
    *_TRANSLATIONS,
    "AcquisitionAccumulateTriggerGadget",
    "BucketToBufferGadget",
    "GenericReconCartesianReferencePrepGadget",
    "PythonGadget",
}
"""Stock gadgets that have a counterpart."""
