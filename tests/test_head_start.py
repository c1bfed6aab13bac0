import pytest
import torch
from helpers import collect
from isocenter.gadgets import estimate_coil_maps as maps_module
from isocenter.gadgets import head_start, load
from isocenter.gadgets.early import EarlyWork, chain_context
from isocenter.gadgets.estimate_coil_maps import MapsOptions
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.scan import Scan
from isocenter.simulate.scan import ScanProtocol, simulate

FOLLOWING = [("remove_oversampling", {}), ("prewhiten", {}), ("estimate_coil_maps", {"calibration_size": 16})]
STEPS = [(load("accumulate"), {}), *((load(name), options) for name, options in FOLLOWING)]
PROTOCOLS = {
    "full": {"acs": 0},
    "embedded": {"acceleration": 2, "acs": 12},
    "separate": {"acceleration": 2, "acs": 16, "calibration": "separate"},
    "external": {"acceleration": 2, "acs": 16, "calibration": "external"},
    "random": {"acceleration": 3, "acs": 8, "sampling": "variable-density"},
    "slices": {"slices": 3, "acceleration": 2, "acs": 20},
    "averages": {"averages": 2, "acceleration": 2, "acs": 16},
    "partial Fourier": {"partial_fourier": 0.75},
    "asymmetric echo": {"asymmetric_echo": 0.8},
    "odd lines": {"phase_resolution": 0.9, "reverse_every_second": True},
    "three-dimensional": {"partitions": 6, "acceleration": 2, "acs": 16},
    "no noise": {"noise_scan": False},
    "few lines": {"phase_resolution": 0.25},
    "no oversampling": {"oversampling": 1},
}


def shared(steps, scan, **options):
    """The steps of a chain, each with what it gets from the chain."""
    context = chain_context(steps, scan, **options)
    return [
        (step, {**given, **{name: context[name] for name in step.from_chain & context.keys()}}) for step, given in steps
    ]


def blocks(simulation, early, items=None):
    scan = Scan(simulation.header)
    steps = shared(STEPS, scan, begin_maps=True) if early else STEPS
    stream = iter(simulation.items if items is None else items)
    for step, options in steps:
        stream = step(stream, scan, **options)
    return [item for item in stream if isinstance(item, Kspace)], scan


@pytest.mark.parametrize("name", PROTOCOLS)
def test_early_work_gives_what_the_gadgets_give(name):
    scan = simulate(ScanProtocol(matrix=48, coils=4, **PROTOCOLS[name]))
    early, _ = blocks(scan, True)
    late, _ = blocks(simulate(scan.protocol), False)
    assert len(early) == len(late) > 0
    for ours, theirs in zip(early, late, strict=True):
        scale = theirs.data.abs().max()
        assert ours.data.shape == theirs.data.shape
        assert (ours.data - theirs.data).abs().max() < 1e-5 * scale
        assert torch.equal(ours.mask, theirs.mask)
        assert (ours.calibration is None) == (theirs.calibration is None)
        if ours.calibration is not None:
            assert (ours.calibration - theirs.calibration).abs().max() < 1e-5 * scale
        maps, expected = ours.coil_maps.get(), theirs.coil_maps.get()
        inside = (expected.abs().sum(0) > 0) & (maps.abs().sum(0) > 0)
        assert ((maps - expected).abs().amax(0)[inside]).median() < 1e-4


@pytest.mark.parametrize("name", ["embedded", "separate", "full", "random"])
def test_the_last_line_finds_little_to_do(name, monkeypatch):
    scan = simulate(ScanProtocol(matrix=96, coils=4, noise_scan=True, **PROTOCOLS[name]))
    left = []
    finish = head_start.HeadStart.finish

    def spy(self, block, calibration, grid):
        left.append((len(block.fresh), self._maps is not None))
        return finish(self, block, calibration, grid)

    monkeypatch.setattr(head_start.HeadStart, "finish", spy)
    blocks(scan, True)
    own = 6  # calibration lines that become lines of the image, in "embedded"
    assert all(lines < head_start.CHUNK + own and maps for lines, maps in left)
    assert left


@pytest.mark.parametrize("count", [4, 10])
def test_maps_are_made_again_where_more_calibration_lines_came(count):
    """Also where too few come for another estimate before the block is complete."""
    protocol = ScanProtocol(matrix=48, coils=4, acceleration=2, acs=16, noise=0.0, noise_scan=False)
    scan = simulate(protocol)
    # the middle first, then the lines next to it: what looked complete was not
    middle = [item for item in scan.items if abs(item.idx.kspace_encode_step_1 - 24) <= 3]
    rest = [item for item in scan.items if abs(item.idx.kspace_encode_step_1 - 24) > 3]
    far = [item for item in rest if abs(item.idx.kspace_encode_step_1 - 24) > 8]
    near = sorted((a for a in rest if a not in far), key=lambda a: abs(a.idx.kspace_encode_step_1 - 24))[:count]
    for item in scan.items:
        item.clearAllFlags()
    (early,), _ = blocks(scan, True, items=[*middle, *far, *near])
    (late,), _ = blocks(scan, False, items=[*middle, *far, *near])
    assert (early.coil_maps.get() - late.coil_maps.get()).abs().max() < 1e-3


def test_maps_are_made_anew_of_lines_that_come_beside_the_calibration_lines():
    scan = simulate(ScanProtocol(matrix=64, coils=4, acceleration=2, acs=10, noise=0.1, noise_scan=False))
    apart = [abs(item.idx.kspace_encode_step_1 - 32) for item in scan.items]
    # the calibration lines first, the image's from the edge to the middle: the last one lies next to the former
    order = sorted(range(len(apart)), key=lambda index: (apart[index] > 5, -apart[index]))
    items = [scan.items[index] for index in order]
    (early,), _ = blocks(scan, True, items=items)
    (late,), _ = blocks(scan, False, items=items)
    assert (early.coil_maps.get() - late.coil_maps.get()).abs().max() < 1e-3


def test_noise_that_comes_after_the_first_lines_whitens_all_of_them():
    scan = simulate(ScanProtocol(matrix=48, coils=4))
    items = [*scan.items[1:40], scan.items[0], *scan.items[40:]]
    (early,), _ = blocks(scan, True, items=items)
    (late,), _ = blocks(simulate(scan.protocol), False, items=items)
    assert (early.data - late.data).abs().max() < 1e-5 * late.data.abs().max()


def test_what_is_not_whitened_early_is_whitened_later():
    scan = simulate(ScanProtocol(matrix=48, coils=4))
    names = ("accumulate", "remove_oversampling", "filter_kspace", "prewhiten")
    steps = [(load(name), {}) for name in names]
    late, _ = collect(steps, simulate(scan.protocol))
    early, _ = collect(shared(steps, Scan(scan.header), begin_maps=True), scan)
    assert (early[0].data - late[0].data).abs().max() < 1e-5 * late[0].data.abs().max()


def test_lines_with_nan_are_left_out():
    scan = simulate(ScanProtocol(matrix=48, coils=4))
    scan.items[10].data[1, 3] = float("nan")
    (early,), context = blocks(scan, True)
    assert torch.isfinite(early.data).all()
    assert int(early.mask.sum()) == 47
    assert "holds NaN" in context.problem_messages()[0]


def test_only_what_follows_directly_begins_early():
    scan = Scan(simulate(ScanProtocol(matrix=16, coils=2)).header)

    def early(*names):
        steps = [None if name == "program" else (load(name), {}) for name in names]
        return chain_context(steps, scan, begin_maps=True)["early"]

    work = early("accumulate", "prewhiten", "filter_kspace", "remove_oversampling")
    assert work == EarlyWork(whitener=work.whitener)
    assert work.whitener is not None
    assert early("accumulate", "compress_coils") is None
    assert early("accumulate", "program", "remove_oversampling") is None
    assert early("prewhiten", "accumulate", "prewhiten", "remove_oversampling") == EarlyWork(crop=True)
    maps = early("accumulate", "estimate_coil_maps", "remove_oversampling")
    assert maps == EarlyWork(maps=MapsOptions())
    assert early("remove_oversampling") is None


def test_maps_that_no_bundle_takes_are_made_only_on_demand(engine, monkeypatch):
    scan = simulate(ScanProtocol(matrix=48, coils=4, acceleration=2, acs=16))
    made = []
    estimate = maps_module.estimate_maps
    monkeypatch.setattr(maps_module, "estimate_maps", lambda *given: made.append(given) or estimate(*given))

    steps = shared(STEPS, Scan(scan.header), begin_maps=False)
    rss, _ = collect([*steps, (load("reconstruct"), {"bundle": "rss"})], scan, engine=engine)
    assert not made
    sense, _ = collect([*steps, (load("reconstruct"), {"bundle": "sense"})], simulate(scan.protocol), engine=engine)
    assert len(made) == 1
    expected, _ = collect([*STEPS, (load("reconstruct"), {"bundle": "sense"})], simulate(scan.protocol), engine=engine)
    assert rss[0].data.shape == sense[0].data.shape
    # as many threads as are free share out the maps, and round differently
    assert abs(sense[0].data - expected[0].data).max() < 1e-4 * abs(expected[0].data).max()
