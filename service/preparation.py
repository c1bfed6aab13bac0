"""What is made ready for a scan as soon as its header and pipeline are known."""

from contextlib import suppress
from dataclasses import replace

from ..engine import Engine
from ..gadgets import head_start
from ..gadgets.reconstruct import bundle_names
from ..gadgets.scan import Scan
from ..pipelines.loader import GadgetStep, Pipeline
from ..wire.errors import IsocenterError


def warm_up(pipeline: Pipeline, scan: Scan, engine: Engine) -> None:
    """Load and warm up the pipeline's bundle while the scan begins, and load its fallbacks; faults show when they are used."""
    sizes = _announced_sizes(pipeline, scan)
    for names in _bundles(pipeline, scan):
        engine.prepare(names[0], sizes)
        engine.preload(names[1:])


def plan_ahead(pipeline: Pipeline, scan: Scan, engine: Engine) -> None:
    """Tell the scan's gadgets what to do before the last readout is in."""
    scan.needs_maps = _needs_maps(pipeline, scan, engine)
    scan.plan = _head_start(pipeline, scan.needs_maps)


def _bundles(pipeline: Pipeline, scan: Scan) -> list[list[str]]:
    """Names of the bundles that each ``reconstruct`` tries, in order."""
    found = []
    for step in pipeline.steps:
        if isinstance(step, GadgetStep) and step.gadget.name == "reconstruct":
            options = {**step.gadget.defaults, **step.options}
            with suppress(IsocenterError):  # said when the bundle is used
                found.append(bundle_names(scan, options["bundle"], options["fallback"]))
    return found


def _needs_maps(pipeline: Pipeline, scan: Scan, engine: Engine) -> bool:
    """Whether a bundle that the pipeline tries first takes coil maps."""
    bundles = _bundles(pipeline, scan)
    try:
        manifests = [engine.load(names[0]).manifest for names in bundles]
    except IsocenterError:
        return True  # said when the bundle is used
    return not bundles or any(spec.name == "maps" for manifest in manifests for spec in manifest.inputs)


def _head_start(pipeline: Pipeline, needs_maps: bool) -> head_start.Plan | None:
    """What can be done before the last readout is in; None if the pipeline buffers none."""
    steps = [(step.gadget.name, step.options) if isinstance(step, GadgetStep) else ("", {}) for step in pipeline.steps]
    names = [name for name, _ in steps]
    if "accumulate" not in names:
        return None
    position = names.index("accumulate")
    plan = head_start.plan(steps[position + 1 :])
    if "prewhiten" in names[:position]:  # it has used up the noise
        plan = replace(plan, whiten=False)
    if not needs_maps:
        plan = replace(plan, maps=None)
    return plan if plan != head_start.Plan() else None


def _announced_sizes(pipeline: Pipeline, scan: Scan) -> dict[str, int]:
    """Sizes that a bundle's inputs will have, as far as header and pipeline tell."""
    encoding = scan.encodings[0]
    system = scan.header.acquisitionSystemInformation
    frames = [step.options.get("frames", "none") for step in pipeline.steps if isinstance(step, GadgetStep)]
    counter = next((name for name in frames if name != "none"), None)
    return {
        "batch": 1,
        "coils": int(getattr(system, "receiverChannels", None) or 8),
        "frames": encoding.count(counter) if counter else 1,
        "kz": encoding.encoded_matrix[2],
        "ky": encoding.encoded_matrix[1],
        "kx": encoding.cropped_readout,
    }
