"""What the client of a scan may choose of a pipeline, and the pipeline as it has chosen.

A pipeline's parameters are the options of its gadgets that are marked ``FromClient`` and that the pipeline leaves open. What the
service itself reads comes besides.
"""

import inspect
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..gadgets.options import as_text, meanings
from ..wire.accepted import accepted
from ..wire.errors import OptionError, nearest
from .loader import FireStep, GadgetStep, Pipeline

_TRUTH = TypeAdapter(bool)


@dataclass(frozen=True)
class Parameter:
    """Something that a client may choose.

    Attributes
    ----------
    name
        In the JSON message ``{"parameters": {name: value}}``, with ``replay --parameter``, and in ``isocenter.reconstruct``.
    accepted
        Type and range, in words.
    default
        As text; empty where the site's settings or the gadget decide.
    meaning
        What it does.
    """

    name: str
    accepted: str
    default: str
    meaning: str


OF_THE_SERVICE: dict[str, Parameter] = {
    each.name: each
    for each in (
        Parameter(
            "config",
            "text",
            "",
            "Name of a pipeline, in the place of the one that the configuration names. Empty: that one.",
        ),
        Parameter("customconfig", "text", "", "The same; where both are given, this one counts."),
        Parameter(
            "feedback",
            accepted(_TRUTH),
            as_text(False),
            "Whether what gadgets have for the sequence, such as what to measure next, is sent to it (message 1028).",
        ),
    )
}
"""Parameters of every scan that no gadget reads."""


def of_message(text: str) -> Mapping[str, Any] | None:
    """Return the parameters of FIRE's JSON message, by name; None if the text is something else.

    Raises
    ------
    OptionError
        One is given twice: JSON does not say which of them counts.
    """
    try:
        content = json.loads(text, object_pairs_hook=_Members)
    except (ValueError, RecursionError):
        return None
    parameters = content.get("parameters") if isinstance(content, _Members) else None
    if not isinstance(parameters, _Members):
        return None
    if doubled := content.doubled or parameters.doubled:
        raise OptionError(f"{doubled[:40]!r} is given twice", where="parameters of the scan", accepted="each name once")
    return dict(parameters)


class _Members(dict[str, Any]):
    """An object of JSON that knows which of its names came twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(name for name, _ in pairs)
        self.doubled: str = next((name for name, count in counts.items() if count > 1), "")


def parameters_of(pipeline: Pipeline) -> dict[str, Parameter]:
    """Return what a client may choose of a pipeline, by name, in the order of the steps."""
    found: dict[str, Parameter] = {}
    for step, name, option in _open(pipeline):
        gadget = step.gadget
        default = gadget.defaults[option]
        found[name] = Parameter(
            name,
            accepted(gadget.options[option]),
            "" if default is None or default is inspect.Parameter.empty else as_text(default),
            meanings(gadget.function).get(option, ""),
        )
    return found


def choose(pipeline: Pipeline, values: Mapping[str, Any]) -> Pipeline:
    """Return a pipeline whose open options are as a client has chosen; an empty text or null chooses nothing.

    Parameters
    ----------
    pipeline
        As it was loaded; what was chosen of it before does not count.
    values
        By name of the parameter: texts as in XML, or JSON's numbers and truth values. Others are passed over (``unread``).

    Raises
    ------
    OptionError
        A value is of the wrong type or out of range.
    """
    wants_feedback(values)
    chosen = _chosen(values)
    options: dict[int, dict[str, Any]] = {}
    for step, name, option in _open(pipeline):
        if name in chosen:
            value = step.gadget.parse_option(option, chosen[name], f"parameter {name!r}")
            options.setdefault(id(step), {})[option] = value
    steps = (replace(s, chosen=options.get(id(s), {})) if isinstance(s, GadgetStep) else s for s in pipeline.steps)
    return replace(pipeline, steps=tuple(steps))


def wants_feedback(values: Mapping[str, Any]) -> bool:
    """Whether a client has asked for what gadgets have for the sequence: one that has not would abort on the message.

    Raises
    ------
    OptionError
        The parameter is neither true nor false.
    """
    text = _chosen(values).get("feedback", "false")
    try:
        return _TRUTH.validate_python(text)
    except ValidationError as error:
        what = f"{text[:40]!r} is not accepted"
        raise OptionError(what, where="parameter 'feedback'", accepted=accepted(_TRUTH)) from error


def read(pipeline: Pipeline, values: Mapping[str, Any]) -> dict[str, str]:
    """Return what a client has chosen that the pipeline's gadgets read."""
    open_ones = parameters_of(pipeline)
    return {name: text for name, text in _chosen(values).items() if name in open_ones}


def unread(pipeline: Pipeline, values: Mapping[str, Any]) -> list[str]:
    """Return the names of parameters that nothing reads. A FIRE module is given all, and reads what it likes."""
    if any(isinstance(step, FireStep) for step in pipeline.steps):
        return []
    known = parameters_of(pipeline).keys() | OF_THE_SERVICE.keys()
    return [name for name in values if name not in known]


def complaint(pipeline: Pipeline, values: Mapping[str, Any]) -> str:
    """Say which parameters nothing reads, with the names that come nearest and all there are; empty if all are read."""
    known = [*parameters_of(pipeline), *OF_THE_SERVICE]
    hints = [f"{name[:40]!r}{nearest(name, known)}" for name in unread(pipeline, values)]
    if not hints:
        return ""
    what = "a parameter" if len(hints) == 1 else "parameters"
    return (
        f"nothing in pipeline {pipeline.name!r} reads {what} {', '.join(hints)}: the images are made without; "
        f"its parameters are {', '.join(known)}"
    )


def _open(pipeline: Pipeline) -> Iterator[tuple[GadgetStep, str, str]]:
    """Steps with a parameter and its option, which the pipeline leaves open."""
    for step in pipeline.steps:
        if isinstance(step, GadgetStep):
            for name, option in step.gadget.parameters.items():
                if option not in step.options:
                    yield step, name, option


def _chosen(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as texts."""
    given = {name: value for name, value in values.items() if value is not None and value != ""}
    return {name: value if isinstance(value, str) else json.dumps(value, default=str) for name, value in given.items()}
