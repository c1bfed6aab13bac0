"""What somebody's own module takes, and what its bundle takes for it."""

import inspect
from collections.abc import Mapping

from torch import nn

from ..bundle.axes import fixed_lengths
from ..bundle.manifest import BundleError, TensorSpec
from .options import Direction, ExportOptions

_NAMES = {
    "kspace": ("kspace", "masked_kspace", "undersampled_kspace", "kspace_masked", "kspace_undersampled"),
    "mask": ("mask", "sampling_mask", "undersampling_mask"),
    "maps": (
        *("maps", "coil_maps", "sens_maps", "sens_map", "sensitivity_maps", "sensitivity_map", "csm", "smaps"),
        *("sensitivities", "coil_sensitivities"),
    ),
}
"""What the inputs of a bundle are called, and what else."""
_ROLES = {name: role for role, names in {**_NAMES, "image": ("image", "zero_filled")}.items() for name in names}


def find_arguments(module: nn.Module, target: str, options: ExportOptions) -> tuple[TensorSpec, ...]:
    """Return what a module takes, in the order of its arguments: what the user names, or else what they are called.

    Raises
    ------
    BundleError
        What the user names cannot be, or the arguments have names that say nothing.
    """
    return _named(options.inputs, target) if options.inputs else _guess(module, target, options)


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


def _guess(module: nn.Module, target: str, options: ExportOptions) -> tuple[TensorSpec, ...]:
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


def bundle_inputs(arguments: tuple[TensorSpec, ...], target: str, options: ExportOptions) -> tuple[TensorSpec, ...]:
    """Return the inputs of the bundle: in the usual order, the mask as it broadcasts against k-space.

    With what the module takes comes what is needed around it: k-space and maps for the zero-filled image, the mask for the
    scaling, all of them for a last step of SENSE.

    Raises
    ------
    BundleError
        The module cannot be scaled, or end with SENSE, as the options say.
    """
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
    fixed = fixed_lengths(tuple(given.values()))
    return tuple(_with_lengths(given[name], fixed) for name in _NAMES if name in given)


def _with_lengths(spec: TensorSpec, fixed: Mapping[str, int]) -> TensorSpec:
    """Give an input the lengths that one of them fixes."""
    own = {axis: (fixed[axis], fixed[axis]) for axis in spec.axes if axis in fixed}
    return spec.model_copy(update={"limits": {**spec.limits, **own}})
