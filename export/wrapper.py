"""The wrapper around somebody's own module: a bundle's real tensors outside, whatever the module is written for inside.

It is generated as Python source, which holds the conversions that this one module needs and nothing else, for example::

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        image = self.module(
            torch.view_as_complex(maps.contiguous()),
            torch.view_as_complex(kspace.contiguous()),
            mask.reshape([mask.size(0), mask.size(2)]) > 0.5,
        )
        image = torch.view_as_real(image.resolve_conj().contiguous())
        image = zero_without_signal(kspace, image)
        return image

A wrapper that looked at a description of the module while it runs could not be TorchScript without one class for every number
of inputs and of arguments, and nobody could read off it what is done.
"""

import hashlib
import linecache
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor, nn

from ..bundle.manifest import BundleError, TensorSpec

_TEMPLATE = '''\
"""What stands between a bundle and the module in it; written by isocenter export."""

import torch
from torch import Tensor, nn

from isocenter.export.wrapper import zero_without_signal
from isocenter.models.fourier import ifft2c
from isocenter.models.planar import coil_reduce, root_sum_of_squares


class Wrapper(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, {inputs}) -> Tensor:
        image = self.module(
{arguments}        )
{results}        return image
'''


@dataclass(frozen=True)
class Form:
    """What a module takes and returns, in Python.

    Parameters
    ----------
    inputs
        What the bundle is given, in order: ``kspace``, then ``mask`` and ``maps`` where it takes them.
    arguments
        What the module is called with, in order: expressions in the inputs, as ``argument_of`` writes them.
    results
        What is made of the ``image`` that it returns, one after the other: expressions in ``image`` and the inputs.
    """

    inputs: tuple[str, ...]
    arguments: tuple[str, ...]
    results: tuple[str, ...] = ()

    def then(self, *expressions: str) -> "Form":
        """Return the form that makes these of the image as well, after all else."""
        return replace(self, results=(*self.results, *expressions))


def argument_of(
    spec: TensorSpec, inputs: Sequence[TensorSpec], *, complex_tensors: bool = False, boolean_mask: bool = False
) -> str:
    """Write the expression that makes an argument of a module from the inputs of its bundle.

    Parameters
    ----------
    spec
        Name and axes of the argument: ``kspace``, ``mask``, ``maps``, or the zero-filled ``image``, which is made here: as
        magnitude (root of the sum of squares over the coils) or complex (combined with the maps).
    inputs
        Of the bundle, k-space first.
    complex_tensors
        Whether the module takes complex tensors, without the axis of real and imaginary part.
    boolean_mask
        Whether it takes the mask as booleans.

    Raises
    ------
    BundleError
        The axes of the mask or the image are none that can be made.
    """
    if spec.name == "mask":
        mask = _mask(spec, inputs, complex_tensors)
        return f"{mask} > 0.5" if boolean_mask else mask
    expression = _image(spec, inputs) if spec.name == "image" else spec.name
    is_complex = complex_tensors and spec.axes[-1] == "complex"
    return f"torch.view_as_complex({expression}.contiguous())" if is_complex else expression


def _mask(spec: TensorSpec, inputs: Sequence[TensorSpec], complex_tensors: bool) -> str:
    given = next(each.axes for each in inputs if each.name == "mask")
    wanted = spec.axes[:-1] if complex_tensors and len(spec.axes) == len(given) else spec.axes
    kspace = inputs[0].axes
    if unknown := [axis for axis in wanted if axis not in (*kspace, "1")]:
        raise BundleError(f"the mask has axes {', '.join(unknown)}, which k-space does not have: {', '.join(kspace)}")
    named = [given.index(axis) for axis in wanted if axis != "1"]
    if named != sorted(named):
        raise BundleError(f"the mask's axes {list(wanted)} are in another order than those of k-space")
    sizes = ("1" if axis == "1" else f"mask.size({given.index(axis)})" for axis in wanted)
    return "mask" if wanted == given else f"mask.reshape([{', '.join(sizes)}])"


def _image(spec: TensorSpec, inputs: Sequence[TensorSpec]) -> str:
    axes = {each.name: each.axes for each in inputs}
    spatial = tuple(axis for axis in spec.axes if axis not in ("batch", "1", "complex"))
    same_maps = len(axes.get("maps", ())) == len(axes["kspace"])
    magnitude = "root_sum_of_squares(ifft2c(kspace))"
    # maps without frames are the same for all of them
    combined = f"coil_reduce(ifft2c(kspace), {'maps' if same_maps else 'maps.unsqueeze(2)'})"
    known = {
        ("batch", *spatial): magnitude,
        ("batch", "1", *spatial): f"{magnitude}.unsqueeze(1)",
        ("batch", *spatial, "complex"): combined,
        ("batch", "complex", *spatial): f"{combined}.movedim(-1, 1).contiguous()",
    }
    if spec.axes not in known:
        raise BundleError(
            f"the image has the axes {list(spec.axes)}", accepted=", ".join(str(list(form)) for form in known)
        )
    return known[spec.axes]


def wrapper_source(form: Form) -> str:
    """Return the source of a module ``Wrapper`` that holds another one, and takes and returns what its bundle does."""
    return _TEMPLATE.format(
        inputs=", ".join(f"{name}: Tensor" for name in form.inputs),
        arguments="".join(f"            {expression},\n" for expression in form.arguments),
        results="".join(f"        image = {expression}\n" for expression in form.results),
    )


def wrap(module: nn.Module, form: Form) -> nn.Module:
    """Put the wrapper around a module."""
    source = wrapper_source(form)
    name = f"isocenter_wrapper_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        sys.modules[name] = _load(name, source)
    return sys.modules[name].Wrapper(module)


def _load(name: str, source: str) -> ModuleType:
    """Make a Python module of source that is in no file; ``linecache`` shows it to TorchScript, which compiles from source."""
    made, file = ModuleType(name), f"<{name}>"
    made.__file__ = file
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), vars(made))  # noqa: S102  (every expression in it was written above)
    return made


def zero_without_signal(kspace: Tensor, image: Tensor) -> Tensor:
    """Return the image [batch, ...], zero where k-space [batch, ...] is zero throughout: a module may divide by its signal."""
    signal = kspace.abs().flatten(1).amax(dim=1) > 0
    return torch.where(signal.reshape([-1] + [1] * (image.dim() - 1)), image, torch.zeros_like(image))
