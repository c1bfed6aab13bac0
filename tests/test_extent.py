"""Images of k-space whose edge was not measured on one side or on both: they say so."""

import pytest
from isocenter.service.provenance import amiss
from isocenter.simulate.scan import ScanProtocol, simulate

USUAL = {"matrix": 96, "coils": 8, "noise": 0.3, "slices": 1}


def replayed(service, pipeline, **protocol):
    parameters = '{"parameters": {"bundle": "ridge"}}' if pipeline == "network.xml" else None
    result = service.replay(simulate(ScanProtocol(**{**USUAL, **protocol})), pipeline, parameters=parameters)
    (image,) = result.images
    return image.meta, result.texts


@pytest.mark.parametrize(
    ("pipeline", "protocol", "extent"),
    [
        ("rss.xml", {"asymmetric_echo": 0.6}, "60 % along the readout (asymmetric echo)"),
        ("rss.xml", {"partial_fourier": 0.75}, "75 % along ky (partial Fourier)"),
        ("sense.xml", {"partial_fourier": 0.625, "acceleration": 2}, "63 % along ky (partial Fourier)"),
        ("rss.xml", {"partial_fourier": 0.7, "partitions": 20, "matrix": 32}, "69 % along ky (partial Fourier)"),
        (
            "rss.xml",
            {"asymmetric_echo": 0.7, "partial_fourier": 0.8},
            "70 % along the readout (asymmetric echo) and 80 % along ky",
        ),
    ],
)
def test_a_side_that_was_not_measured_is_told(service, pipeline, protocol, extent):
    meta, texts = replayed(service, pipeline, **protocol)
    assert f"k-space was measured to {extent}" in meta["IsocenterPartialFourier"]
    assert meta["IsocenterComplete"] == "yes"  # as was planned
    assert "PartialFourier" in amiss(meta)
    assert sum(meta["IsocenterPartialFourier"] in text for text in texts) == 1


def test_a_network_is_not_used_for_echoes_of_another_kind_than_its_training(service):
    meta, _ = replayed(service, "network.xml", asymmetric_echo=0.6, acceleration=2)
    assert meta["IsocenterBundle"] == "tv"
    assert "extent of the echo 0.599, accepted is 0.95 to 1" in meta["IsocenterFallback"]


def test_lines_that_end_near_the_middle_of_k_space_are_told(service):
    """24 calibration lines are all that an acceleration of 4 leaves of 96."""
    meta, texts = replayed(service, "network.xml", acceleration=4, sampling="variable-density")
    assert "the resolution along ky is 25 % of what the pixels suggest" in meta["IsocenterResolution"]
    assert meta["IsocenterComplete"].startswith("no")
    assert any(meta["IsocenterResolution"] in text for text in texts)


@pytest.mark.parametrize(
    "protocol",
    [
        {},
        {"phase_resolution": 0.7},
        {"acceleration": 4, "acs": 16},
        {"acceleration": 3, "acs": 12, "sampling": "variable-density"},
        {"acceleration": 3, "acs": 12, "sampling": "uniform-random", "seed": 3},
        {"acceleration": 2, "partitions": 12, "matrix": 32},
        {"acceleration": 6, "acs": 4, "calibration": "separate"},
    ],
)
def test_scans_that_reach_the_edge_say_nothing(service, protocol):
    meta, _ = replayed(service, "sense.xml", **protocol)
    assert "IsocenterPartialFourier" not in meta
    assert "IsocenterResolution" not in meta
