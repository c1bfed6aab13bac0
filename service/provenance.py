"""What every image says of where it comes from, and whether anything is missing in it; listed in ``docs/images.md``."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from xml.etree.ElementTree import ParseError

import ismrmrd

from ..gadgets.kspace import Item
from ..gadgets.scan import Scan
from ..pipelines.loader import ExternalStep, FireStep, Pipeline
from ..pipelines.parameters import read, unread
from ..wire.items import DicomFile, Image, ImageArray
from .configuration import substitution
from .version import version

PREFIX = "Isocenter"
BUNDLE = ("Bundle", "BundleVersion", "BundleHash", "Runtime", "Device")
"""Of the bundle that made the image; ``none`` where another program did, or where it came as an image."""
OTHERS = (
    *("Version", "Pipeline", "PipelineHash", "Parameters", "Programs", "Complete", "Network", "Batch", "Spool"),
    *("NoiseSource", "NoiseTime", "NoiseSamples", "NoiseHash"),
    *("Scale", "Offset", "Shows", "Uncertainty", "Regularization"),
)
"""What else is said of where an image comes from."""
DOUBTS = (
    *("Configuration", "Unread", "Header", "Limits", "Partitions", "Middle"),
    *(
        "Fallback",
        "OutsideDomain",
        "Negative",
        "Clipped",
        "Rounded",
        "Uncalibrated",
        "Maps",
        "Aliasing",
        "Error",
        "PartialFourier",
        "EndedEarly",
    ),
)
"""What may be wrong with an image that has everything. All else that it says of itself means that something is left out."""
_ORIGIN = frozenset(f"{PREFIX}{name}" for name in (*BUNDLE, *OTHERS))
_NO_FAULT = _ORIGIN | {f"{PREFIX}{name}" for name in DOUBTS}
_COMPLETE = f"{PREFIX}Complete"


def amiss(meta: Mapping[str, object]) -> dict[str, str]:
    """Return what is wrong or in doubt with an image, by the names that stand after ``Isocenter``; what only informs is not.

    Parameters
    ----------
    meta
        Its meta attributes.
    """
    found = {name: str(text) for name, text in meta.items() if name.startswith(PREFIX) and name not in _ORIGIN}
    if str(meta.get(_COMPLETE, "yes")) != "yes" and found.keys() <= _NO_FAULT:  # nothing else says what is left out
        found[_COMPLETE] = str(meta[_COMPLETE])
    return {name.removeprefix(PREFIX): text for name, text in found.items()}


class Provenance:
    """Writes onto images what is known when they leave the chain.

    Parameters
    ----------
    pipeline
        That made them.
    scan
        Asked for its problems.
    """

    def __init__(self, pipeline: Pipeline, scan: Scan) -> None:
        self._scan = scan
        self._of_scan = {"Version": version(), "Pipeline": pipeline.name, "PipelineHash": pipeline.digest}
        if programs := [step.title for step in pipeline.steps if isinstance(step, ExternalStep | FireStep)]:
            self._of_scan["Programs"] = ", ".join(programs)
        if chosen := read(pipeline, scan.parameters):
            self._of_scan["Parameters"] = ", ".join(f"{name}={value}" for name, value in chosen.items())
        if ignored := unread(pipeline, scan.parameters):
            self._of_scan["Unread"] = f"nothing reads these parameters: {', '.join(ignored)}"
        if replaced := substitution(pipeline):
            self._of_scan["Configuration"] = replaced

    def stamp(self, item: Item) -> Item:
        """Return an item whose images say where they come from; other items as they are."""
        if isinstance(item, Image):
            self._write(item.meta)
        elif isinstance(item, ImageArray):
            missing = [""] * (len(item.headers) - len(item.meta))
            item.meta = [self._written(xml) for xml in (*item.meta, *missing)]
        elif isinstance(item, DicomFile):
            return replace(item, meta=self._written(item.meta.decode("utf-8", "replace")).encode())
        return item

    def _write(self, meta: ismrmrd.Meta) -> None:
        is_ours = meta.get(f"{PREFIX}Bundle", "none") != "none"
        for name in BUNDLE:
            if f"{PREFIX}{name}" not in meta:
                meta[f"{PREFIX}{name}"] = "none"
        for name, value in self._of_scan.items():
            meta[f"{PREFIX}{name}"] = value
        # another program may not have passed on what the blocks said that it got
        reasons = _left_out(meta) or ([] if is_ours else self._scan.problem_messages())
        meta[_COMPLETE] = f"no: {'; '.join(reasons)}" if reasons else "yes"

    def _written(self, xml: str) -> str:
        """Add to meta attributes as XML; what cannot be read stays as it is."""
        if "<!DOCTYPE" in xml:
            return xml
        try:
            meta = ismrmrd.Meta.deserialize(xml) if xml.strip("\0 \r\n\t") else ismrmrd.Meta()
        except (ParseError, ValueError, AssertionError):  # it asserts what it finds
            return xml
        self._write(meta)
        return meta.serialize()


def _left_out(meta: ismrmrd.Meta) -> list[str]:
    found: Iterable[str] = (name for name in meta if name.startswith(PREFIX) and name not in _NO_FAULT)
    return [str(meta[name]) for name in found]
