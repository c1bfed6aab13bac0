"""Compare runtimes with the module that they were made from, in float64."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..bundle.folder import relative_error
from ..bundle.manifest import BundleError, Manifest, Parity
from ..engine.runtimes import Runtime
from .cases import Inputs
from .errors import ExportError, cause_of
from .half_precision import HALF
from .rounding import accepted_deviation

_WIDER = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}
_NARROWER = {torch.float64: torch.float32, torch.complex128: torch.complex64}


def run_module(module: nn.Module, manifest: Manifest, inputs: Inputs) -> dict[str, Tensor]:
    """Run a module as it is written; outputs by name.

    Raises
    ------
    BundleError
        It fails on inputs of these shapes.
    """
    try:
        with torch.inference_mode():
            result = module(*(inputs[spec.name] for spec in manifest.inputs))
        values = result if isinstance(result, tuple) else (result,)
        return dict(zip((spec.name for spec in manifest.outputs), values, strict=True))
    except Exception as error:
        where = f"bundle {manifest.name!r}"
        raise BundleError(f"the module fails on {_shapes(inputs)}: {cause_of(error)}", where=where) from error


def _check_values(
    manifest: Manifest, inputs: Inputs, outputs: dict[str, Tensor], again: Callable[[], dict[str, Tensor]] | None
) -> None:
    """Refuse a module with which nothing can be compared."""
    where = f"bundle {manifest.name!r}"
    if not all(torch.isfinite(output).all() for output in outputs.values()):
        raise BundleError(f"the module returns values that are not finite on {_shapes(inputs)}", where=where)
    if again is not None and not all(
        torch.equal(x, y) for x, y in zip(outputs.values(), again().values(), strict=True)
    ):
        raise BundleError("the module returns other values when it runs again on the same input", where=where)


class Comparison:
    """The module's outputs in float64 on all cases, and how far from them a runtime may be.

    Parameters
    ----------
    module
        In float32.
    manifest
        Names inputs and outputs, precision and tolerance.
    cases
        Inputs of several shapes.
    edge_cases
        Inputs by name on which every runtime's output must be finite.

    Raises
    ------
    BundleError
        The module does not run on a case, its values are not finite, or they are others when it runs again.
    """

    def __init__(
        self, module: nn.Module, manifest: Manifest, cases: Sequence[Inputs], edge_cases: Mapping[str, Inputs]
    ) -> None:
        self._manifest = manifest
        self._cases = cases
        self._edge_cases = edge_cases
        self._expected: list[dict[str, Tensor]] = []
        self._eager: list[float] = []
        self._accepted: list[float] = []
        exact = copy.deepcopy(module).double()
        for inputs in cases:
            run = partial(_run_exact, exact, manifest, {name: x.double() for name, x in inputs.items()})
            self._expected.append(run())
            _check_values(manifest, inputs, self._expected[-1], run if inputs is cases[0] else None)
            self._eager.append(relative_error(run_module(module, manifest, inputs), self._expected[-1]))
            self._accepted.append(self._acceptable(run, inputs))

    def _acceptable(self, run: Any, inputs: Inputs) -> float:
        """By how much a runtime may deviate: by what roundings explain, and never by more than the tolerance."""
        if self._manifest.precision in HALF:
            return self._manifest.tolerance
        longest = max(size for tensor in inputs.values() for size in tensor.shape)
        return min(self._manifest.tolerance, accepted_deviation(run, self._expected[-1], longest))

    def check(self, session: Runtime) -> Parity:
        """Run a runtime on everything.

        Raises
        ------
        ExportError
            It fails, deviates by more than is accepted, or returns values that are not finite.
        """
        errors = [
            relative_error(_infer(session, inputs), truth)
            for inputs, truth in zip(self._cases, self._expected, strict=True)
        ]
        worst = max(range(len(errors)), key=lambda case: errors[case] / self._accepted[case])
        if not errors[worst] <= self._accepted[worst]:
            eager = f"eager mode deviates by {self._eager[worst]:.1e}"
            if self._eager[worst] > self._accepted[worst]:
                eager += ": the weights amplify the roundings of float32, as random ones may"
            raise ExportError(
                f"it deviates from float64 by {errors[worst]:.1e} of the maximum on {_shapes(self._cases[worst])}",
                accepted=f"{self._accepted[worst]:.1e} ({eager})",
            )
        for what, inputs in self._edge_cases.items():
            if not all(torch.isfinite(output).all() for output in _infer(session, inputs).values()):
                raise ExportError(f"it returns values that are not finite for {what}")
        return Parity(
            error=errors[worst], accepted=self._accepted[worst], eager=self._eager[worst], cases=len(self._cases)
        )


def _shapes(inputs: Inputs) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in inputs.items()}


def _infer(session: Runtime, inputs: Inputs) -> dict[str, Tensor]:
    try:
        return session.infer(inputs)
    except Exception as error:
        raise ExportError(f"it fails on {_shapes(inputs)}: {cause_of(error)}") from error


def _run_exact(module: nn.Module, manifest: Manifest, inputs: Inputs) -> dict[str, Tensor]:
    with _float64():
        return run_module(module, manifest, inputs)


def _wider(argument: Any) -> Any:
    """Return float64 for a narrower precision, and anything else as it is."""
    return _WIDER.get(argument, argument) if isinstance(argument, torch.dtype) else argument


class _Wider(TorchDispatchMode):
    """Makes float64 of every other precision that code asks for, as in ``x.to(torch.complex64)``."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation."""
        del types
        # operations take a precision by itself, never within a list
        return func(*map(_wider, args), **{name: _wider(value) for name, value in (kwargs or {}).items()})


class _Seeming(TorchFunctionMode):
    """Lets code that asks for a precision see float32, as some refuses any other."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function."""
        del types
        result = func(*args, **(kwargs or {}))
        return _NARROWER.get(result, result) if isinstance(result, torch.dtype) else result


@contextmanager
def _float64() -> Iterator[None]:
    """Inside this context code computes in float64, whatever it says, and does not see it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Wider(), _Seeming():
            yield
    finally:
        torch.set_default_dtype(before)
