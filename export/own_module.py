"""Export somebody's own ``torch.nn.Module``, once it is known what it takes and returns."""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..bundle.axes import fixed_lengths, shape_of
from ..bundle.folder import Bundle
from ..bundle.manifest import BundleError, TensorSpec
from ..bundle.minisign import SecretKey
from .arguments import bundle_inputs, find_arguments
from .cases import SIZES, Inputs, edge_cases, make_case
from .compose import BundlePlan, compose
from .importers.errors import CheckpointError
from .importers.files import Checkpoint, read_checkpoint
from .importers.load import load_state
from .options import ExportOptions
from .wrapper import Form, argument_of, wrap, wrapper_source

_TRIAL = SIZES[1][0]
"""All lengths differ, so that axes are known by them."""


def export_module(
    target: str,
    checkpoint: Path | None,
    folder: Path,
    options: ExportOptions,
    formats: Sequence[str] | None = None,
    key: SecretKey | None = None,
) -> Bundle:
    """Write the bundle of somebody's own module: plan it, then ``BundlePlan.write``; both say what may be wrong."""
    return plan_module(target, checkpoint, options).write(folder, formats, key)


def plan_module(target: str, checkpoint: Path | None, options: ExportOptions) -> BundlePlan:
    """Plan the bundle of somebody's own ``torch.nn.Module``, of which nothing is written yet.

    Its inputs are those that ``options`` names, or else the arguments of ``forward`` that are called ``kspace``, ``mask`` and
    ``maps``, or have another common name of these; it may also take the zero-filled image. Whether it takes complex tensors
    and a boolean mask is tried.

    Parameters
    ----------
    target
        ``package.module:Class``, or a function that returns the module.
    checkpoint
        Its weights; None where it has none, or ``options`` say that it loads them itself.
    options
        See ``ExportOptions``.

    Raises
    ------
    CheckpointError
        The module cannot be made, or the checkpoint does not fit.
    BundleError
        The module cannot be a bundle, or not so; nobody gave its weights, or they have no effect.
    """
    options.check_use(own_module=True)
    if checkpoint is not None and options.weights_inside:
        raise BundleError(
            f"{target} is said to load its weights itself (weights_inside), and a checkpoint is given, too",
            accepted="one of both",
        )
    if checkpoint is None and options.checkpoint_entry is not None:
        raise BundleError("checkpoint_entry is said, and no checkpoint is given", accepted="--checkpoint, or neither")
    own = find_wrapper(target, checkpoint, options)
    return compose(
        own.wrapped,
        options,
        network=target,
        configuration=options.arguments,
        inputs=own.inputs,
        outputs=(own.output,),
        scaling=options.scaling or "none",
        checkpoint=checkpoint,
        source=target,
    )


@dataclass(frozen=True)
class OwnModule:
    """Somebody's own module, as a bundle needs it.

    Parameters
    ----------
    wrapped
        Takes the inputs of the bundle, in their order, and returns its output.
    source
        Python source of the wrapper.
    inputs, output
        Of the bundle.
    """

    wrapped: nn.Module
    source: str
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec


def find_wrapper(target: str, checkpoint: Path | None, options: ExportOptions) -> OwnModule:
    """Load a module, and find out what has to be converted around it; parameters and errors are those of ``plan_module``."""
    read = None if checkpoint is None else read_checkpoint(checkpoint, options.checkpoint_entry)
    module = _load(target, read, options)
    arguments = find_arguments(module, target, options)
    inputs = bundle_inputs(arguments, target, options)
    form, output = _find_form(module, target, arguments, inputs, options)
    if checkpoint is not None or options.weights_inside or not any(True for _ in module.parameters()):
        _check_again(module, _load(target, read, options), target, form, make_case(inputs, _TRIAL))
    return OwnModule(wrap(module, form), wrapper_source(form), inputs, output)


def _load(target: str, checkpoint: Checkpoint | None, options: ExportOptions) -> nn.Module:
    module = _make_module(target, options.arguments)
    if checkpoint is not None:
        _load_own(module, checkpoint)
    return module.eval()


def _check_again(module: nn.Module, again: nn.Module, target: str, form: Form, case: Inputs) -> None:
    """Refuse a module that is another one when it is made again: buffers and other tensors are random that nobody gave."""
    first = _run(module, form, case)
    if torch.equal(first, _run(module, form, case)) and not torch.equal(first, _run(again, form, case)):
        raise BundleError(
            f"{target} returns another image when it is made again: something in it is random that "
            "neither a checkpoint nor a seed of its own determines",
            accepted="tensors that the checkpoint holds (parameters and buffers), or that are made without chance",
        )


def _make_module(target: str, arguments: dict[str, Any]) -> nn.Module:
    package, _, name = target.partition(":")
    if not name or package.endswith(".py"):
        near = f" (nearest: {package.removesuffix('.py').replace('/', '.') + ':' + name!r})" if name else ""
        raise CheckpointError(f"--module is {target!r}{near}", accepted="package.module:Class")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        make = getattr(importlib.import_module(package), name)
    except (Exception, SystemExit) as error:  # it is not our code that runs; scripts end the program
        raise CheckpointError(f"{target} cannot be imported from {Path.cwd()}: {_short(error)}") from error
    try:
        module = make(**arguments)
    except (Exception, SystemExit) as error:
        raise CheckpointError(
            f"{target} cannot be made with arguments {arguments} (configuration 'arguments'): {_short(error)}"
        ) from error
    if not isinstance(module, nn.Module):
        raise CheckpointError(f"{target} made a {type(module).__name__}, which is no torch.nn.Module")
    _use_plain_numbers(module)
    return module


def _use_plain_numbers(module: nn.Module) -> None:
    """Make Python's numbers of NumPy's among the attributes, such as counts of channels, which TorchScript does not take."""
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, np.generic):
                vars(part)[name] = value.item()
            elif isinstance(value, tuple) and any(isinstance(each, np.generic) for each in value):
                vars(part)[name] = tuple(each.item() if isinstance(each, np.generic) else each for each in value)


def _load_own(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Load a state dict; a prefix that all its names share and the module does not have is taken off, as Lightning adds one."""
    tensors = checkpoint.tensors
    names = module.state_dict().keys()
    prefixes = ["", *sorted({key.split(".", 1)[0] + "." for key in tensors})]
    stripped = (
        {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for prefix in prefixes
    )
    load_state(module, next((own for own in stripped if names & own.keys()), tensors), checkpoint.path)


def _find_form(
    module: nn.Module,
    target: str,
    arguments: tuple[TensorSpec, ...],
    inputs: tuple[TensorSpec, ...],
    options: ExportOptions,
) -> tuple[Form, TensorSpec]:
    """Run the module on every form of its inputs that it may expect; return the one that works, and the bundle's output."""
    case = make_case(inputs, _TRIAL)
    found: list[tuple[Form, TensorSpec]] = []
    failures: dict[str, Exception] = {}
    for is_complex in _tensor_kinds(arguments, options):
        how = "complex tensors" if is_complex else "real tensors"
        for form in _forms(arguments, inputs, is_complex):
            try:
                found.append(_with_results(form, _run(module, form, case), inputs, options))
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
    finite = torch.isfinite(_run(module, form, edge_cases(inputs, _TRIAL)["an all-zero slice"])).all()
    return form if finite else form.then("zero_without_signal(kspace, image)"), output


def _tensor_kinds(arguments: tuple[TensorSpec, ...], options: ExportOptions) -> tuple[bool, ...]:
    """Whether complex tensors are tried: not where real and imaginary part are channels, or nothing is complex."""
    if all(spec.axes[-1] != "complex" for spec in arguments):
        return (False,)
    return (False, True) if options.complex_tensors is None else (options.complex_tensors,)


def _forms(arguments: tuple[TensorSpec, ...], inputs: tuple[TensorSpec, ...], is_complex: bool) -> list[Form]:
    """With the mask as numbers, and as booleans."""
    names = tuple(spec.name for spec in inputs)
    forms = (
        Form(
            names,
            tuple(argument_of(spec, inputs, complex_tensors=is_complex, boolean_mask=boolean) for spec in arguments),
        )
        for boolean in (False, True)
    )
    return list(dict.fromkeys(forms))


def _run(module: nn.Module, form: Form, case: Inputs) -> Any:
    with torch.no_grad():
        return wrap(module, form)(*case.values())


def _short(error: BaseException) -> str:
    if isinstance(error, BundleError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _with_results(
    form: Form, image: object, inputs: tuple[TensorSpec, ...], options: ExportOptions
) -> tuple[Form, TensorSpec]:
    """Find the axes of the output by their lengths; the bundle returns it without channels, real and imaginary part last."""
    if not isinstance(image, Tensor):
        raise BundleError(f"it returns a {type(image).__name__}", accepted="one tensor")
    fixed = fixed_lengths(inputs)
    sizes = {**_TRIAL, **fixed}
    shape = list(image.shape)
    if image.is_complex():
        form = form.then("torch.view_as_real(image.resolve_conj().contiguous())")
        shape.append(2)
    spatial = tuple(axis for axis in inputs[0].axes[1:] if axis not in ("coils", "complex"))
    known = {
        ("batch", *spatial): form,
        ("batch", *spatial, "complex"): form,
        ("batch", "1", *spatial): form.then("image.squeeze(1)"),
        ("batch", "1", *spatial, "complex"): form.then("image.squeeze(1)"),
        ("batch", "complex", *spatial): form.then("image.movedim(1, -1).contiguous()"),
    }
    if options.outputs is not None:
        known = {axes: how for axes, how in known.items() if axes == options.outputs[0].axes}
    for axes, how in known.items():
        if shape == shape_of(TensorSpec(name="image", axes=axes), sizes):
            kept = [axis for axis in axes if axis not in ("1", "complex")]
            kept += ["complex"] if "complex" in axes else []
            limits = {axis: (fixed[axis], fixed[axis]) for axis in kept if axis in fixed}
            return how, TensorSpec(name="image", axes=tuple(kept), limits=limits)
    raise BundleError(
        f"it returns {tuple(shape)} for {sizes}",
        accepted=f"magnitudes [batch, {', '.join(spatial)}] and complex images, with an axis of channels after the batch or "
        "without; cropping is the pipeline's work",
    )
