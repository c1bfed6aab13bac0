import numpy as np
import pytest
import torch
from helpers import collect
from isocenter.bundle.manifest import Domain, Manifest, Provenance, TensorSpec
from isocenter.gadgets import domain as of_bundles
from isocenter.gadgets import load
from isocenter.gadgets.domain import describe_sampling
from isocenter.gadgets.kspace import Kspace
from isocenter.simulate.sampling import Request, draw
from isocenter.simulate.scan import ScanProtocol, simulate


def pattern(name, lines, acceleration, acs, offset=0):
    request = Request(lines, acceleration=acceleration, acs=acs, offset=offset)
    return draw(name, request, np.random.default_rng(1))[0]


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
@pytest.mark.parametrize(("lines", "spacing", "acs"), [(192, 4, 24), (145, 3, 16), (128, 2, 0), (96, 8, 12)])
def test_a_uniform_scan_is_recognised(lines, spacing, acs, offset):
    mask = pattern("equispaced", lines, spacing, acs, offset % spacing)
    found = describe_sampling(torch.from_numpy(mask))
    assert (found.pattern, found.acceleration) == ("uniform", spacing)
    assert acs <= found.acs <= acs + 2
    assert found.partial_fourier == 1


def test_a_complete_scan_has_no_acceleration():
    found = describe_sampling(torch.ones(64, dtype=torch.bool))
    assert (found.pattern, found.acceleration, found.acs, found.partial_fourier) == ("full", 1, 64, 1)


@pytest.mark.parametrize("acceleration", [3, 4, 6])
def test_a_random_scan_is_recognised(acceleration):
    found = describe_sampling(torch.from_numpy(pattern("variable-density", 256, acceleration, 20)))
    assert found.pattern == "random"
    assert found.acs >= 20
    assert acceleration - 1 < found.acceleration < 2 * acceleration


def test_a_scan_that_lacks_the_middle_line_has_no_calibration_lines():
    found = describe_sampling(torch.from_numpy(pattern("equispaced", 128, 2, 0, 1)))
    assert (found.pattern, found.acceleration, found.acs) == ("uniform", 2, 0)


def test_partial_fourier_is_measured():
    mask = np.ones(128, bool)
    mask[:32] = False
    assert describe_sampling(torch.from_numpy(mask)).partial_fourier == pytest.approx(0.75, abs=0.02)
    mask[:] = False
    mask[32::4] = True
    assert describe_sampling(torch.from_numpy(mask)).partial_fourier == pytest.approx(0.75, abs=0.04)


def test_random_lines_that_reach_farther_on_one_side_by_chance_are_not_partial_fourier():
    patterns = [torch.from_numpy(pattern("variable-density", 256, 4, 12, seed)) for seed in range(40)]
    assert min(describe_sampling(mask).partial_fourier for mask in patterns) == 1
    one_sided = patterns[0].clone()
    one_sided[:64] = False
    one_sided[192::5] = True
    assert describe_sampling(one_sided).partial_fourier == pytest.approx(0.75, abs=0.03)


def test_nothing_measured_is_described():
    assert describe_sampling(torch.zeros(8, dtype=torch.bool)).acs == 0


def manifest(limits=None, **domain):
    axes = ("batch", "coils", "ky", "kx", "complex")
    return Manifest(
        name="net",
        version="1",
        network="net",
        inputs=(TensorSpec(name="kspace", axes=axes, limits=limits or {}),),
        outputs=(TensorSpec(name="image", axes=("batch", "ky", "kx")),),
        domain=Domain(**domain),
        provenance=Provenance(source="test", licence="MIT", fingerprint="0"),
        intended_use="test",
    )


def misfits(made_for, kspace, scan):
    return [reason.text for reason in of_bundles.misfits(made_for, kspace, scan)]


def block_of(counter="none", **protocol):
    options = {"matrix": 48, "coils": 6, "noise_scan": False, "oversampling": 1, **protocol}
    out, scan = collect([(load("accumulate"), {"frames": counter})], simulate(ScanProtocol(**options)))
    return next(item for item in out if isinstance(item, Kspace)), scan


@pytest.mark.parametrize(
    ("protocol", "domain", "complaint"),
    [
        ({}, {"coils": (8, 32)}, "coils 6, accepted is 8 to 32"),
        ({}, {"matrix": (64, 512)}, "lines 48, accepted is 64 to 512"),
        ({}, {"acceleration": (2, 8)}, "acceleration 1, accepted is 2 to 8"),
        ({"acceleration": 3, "acs": 8}, {"acs": (12, 64)}, "calibration lines 8, accepted is 12 to 64"),
        ({"acceleration": 3, "acs": 8, "calibration": "external"}, {"acs": (12, 64)}, "calibration lines 8,"),
        ({"acceleration": 3}, {"sampling": ("random",)}, "uniform undersampling, accepted is random"),
        ({"partial_fourier": 0.7}, {"partial_fourier": (0.95, 1)}, "partial Fourier 0.7"),
        ({}, {"field_strength_t": (5, 7)}, "field strength in tesla"),
        ({}, {"dimensions": ("2d+t",)}, "a 2d scan, accepted is 2d+t"),
        ({}, {"dimensions": ("3d",)}, "a 2d scan, accepted is 3d"),
        ({"partitions": 4, "acceleration": 2}, {"dimensions": ("2d+t",)}, "accepted is 2d+t"),
    ],
)
def test_what_does_not_fit_is_named_with_what_is_accepted(protocol, domain, complaint):
    kspace, scan = block_of(**protocol)
    assert any(complaint in reason for reason in misfits(manifest(**domain), kspace, scan))


def _planes(shape):
    kz, ky = np.mgrid[: shape[0], : shape[1]]
    return kz, ky, ((kz - shape[0] // 2) / (shape[0] / 2)) ** 2 + ((ky - shape[1] // 2) / (shape[1] / 2)) ** 2 <= 1


@pytest.mark.parametrize(
    ("make", "acceleration"),
    [
        (lambda kz, ky, inside: inside, 1),  # elliptical scanning
        (lambda kz, ky, inside: (kz > 4) & (ky > 7), 1),  # partial Fourier along both
        (lambda kz, ky, inside: ky % 3 == 0, 3),
        (lambda kz, ky, inside: kz % 2 == 0, 2),
        (lambda kz, ky, inside: (ky % 2 == 0) & (kz % 2 == 0), 4),
        (lambda kz, ky, inside: (ky + kz) % 2 == 0, 2),  # CAIPIRINHA
        (lambda kz, ky, inside: inside & ((ky + kz) % 4 == 0), 4),
        (lambda kz, ky, inside: (ky % 2 == 0) | (abs(kz - 10) < 3) & (abs(ky - 16) < 5), 2),  # with calibration lines
    ],
)
def test_acceleration_is_what_is_missing_within_what_was_covered(make, acceleration):
    mask = make(*_planes((20, 32)))
    assert of_bundles.measure_acceleration(torch.from_numpy(mask)) == acceleration


def test_a_lost_line_is_no_complete_scan():
    kspace, scan = block_of()
    kspace.mask[0, 0, 2] = False
    (reason,) = of_bundles.misfits(manifest(acceleration=(1, 1)), kspace, scan)
    assert reason.aliases
    assert "acceleration 1." in reason.text


def test_acceleration_along_kz_multiplies_that_along_ky():
    simulation = simulate(
        ScanProtocol(matrix=48, coils=6, noise_scan=False, oversampling=1, partitions=8, acceleration=3)
    )
    items = [item for item in simulation.items if item.idx.kspace_encode_step_2 % 2 == 0]
    out, scan = collect([(load("accumulate"), {})], simulation, items)
    (kspace,) = (item for item in out if isinstance(item, Kspace))
    assert misfits(manifest(acceleration=(1, 4)), kspace, scan) == ["acceleration 6, accepted is 1 to 4"]
    assert misfits(manifest(acceleration=(6, 6)), kspace, scan) == []


def test_partitions_can_be_taken_one_by_one_where_they_are_alike():
    kspace, scan = block_of(partitions=4, acceleration=2)
    assert misfits(manifest(dimensions=("2d",)), kspace, scan) == []
    assert misfits(manifest(dimensions=("3d",)), kspace, scan) == []
    kspace.mask[:, 0] = ~kspace.mask[:, 0]
    assert misfits(manifest(dimensions=("2d",)), kspace, scan) == ["a 3d scan, accepted is 2d"]


def test_a_complete_scan_fits_every_sort_of_undersampling():
    kspace, scan = block_of()
    assert misfits(manifest(sampling=("random",)), kspace, scan) == []


def test_samples_count_like_lines():
    kspace, scan = block_of(oversampling=2)
    assert misfits(manifest(matrix=(32, 64)), kspace, scan) == ["samples 96, accepted is 32 to 64"]


def test_what_two_inputs_do_not_take_is_said_once():
    kspace, scan = block_of()
    limits = {"ky": (64, 128)}
    mask = TensorSpec(name="mask", axes=("batch", "1", "ky", "1", "1"), limits=limits)
    made = manifest(limits=limits)
    made = made.model_copy(update={"inputs": (*made.inputs, mask)})
    assert misfits(made, kspace, scan) == ["ky 48, accepted is 64 to 128"]


def test_limits_of_an_input_count():
    kspace, scan = block_of()
    assert misfits(manifest(limits={"ky": (64, 128)}), kspace, scan) == ["ky 48, accepted is 64 to 128"]


def test_what_fits_is_not_complained_about():
    kspace, scan = block_of(acceleration=3, acs=16)
    domain = {"acceleration": (2, 4), "acs": (12, 24), "coils": (1, 8), "matrix": (32, 64), "dimensions": ("2d",)}
    assert misfits(manifest(**domain, sampling=("uniform",), partial_fourier=(0.9, 1)), kspace, scan) == []
    assert misfits(manifest(), kspace, scan) == []


def test_frames_fit_a_dynamic_network_and_one_for_stills():
    kspace, scan = block_of("phase", frames=4)
    assert misfits(manifest(dimensions=("2d+t",)), kspace, scan) == []
    assert misfits(manifest(dimensions=("2d",)), kspace, scan) == []


def test_the_part_of_the_body_counts_where_the_scanner_says_it():
    kspace, scan = block_of()
    assert misfits(manifest(anatomy=("brain",)), kspace, scan) == []
    information = scan.header.studyInformation
    if information is None:
        import ismrmrd.xsd

        scan.header.studyInformation = information = ismrmrd.xsd.studyInformationType()
    information.bodyPartExamined = "HEAD"
    assert misfits(manifest(anatomy=("brain",)), kspace, scan) == []
    information.bodyPartExamined = "KNEE"
    assert misfits(manifest(anatomy=("brain",)), kspace, scan) == ["body part 'knee', accepted is brain"]


def test_a_network_is_not_used_on_a_scan_that_it_was_not_made_for(service):
    protocol = ScanProtocol(phantom="template", matrix=96, coils=6, noise=0.3)
    result = service.replay(simulate(protocol), "network.xml", parameters='{"parameters": {"bundle": "modl-brain"}}')
    (image,) = result.images
    assert image.meta["IsocenterBundle"] == "tv"
    assert "was not made for this scan (acceleration 1, accepted is 2.5 to 8)" in image.meta["IsocenterFallback"]
    assert any("acceleration 1" in text and "WARNING" in text for text in result.texts)


def test_a_network_is_used_on_a_scan_that_it_was_made_for(service):
    protocol = ScanProtocol(phantom="template", matrix=96, coils=6, acceleration=4, noise=0.3)
    result = service.replay(simulate(protocol), "network.xml", parameters='{"parameters": {"bundle": "modl-brain"}}')
    (image,) = result.images
    assert image.meta["IsocenterBundle"] == "modl-brain"
    assert image.meta["IsocenterDevice"] == "cpu"
    assert not [text for text in result.texts if "INFO" not in text]  # its bundle may be waited for
