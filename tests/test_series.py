"""Series, and networks of one size, behind the pipeline that the service ships."""

from dataclasses import replace

import numpy as np
import pytest
from isocenter.export.options import ExportOptions
from isocenter.export.own_module import export_module
from isocenter.simulate.scan import ScanProtocol, simulate

CINE = ScanProtocol(
    phantom="heart", matrix=32, coils=3, frames=4, acceleration=2, acs=8, noise=0.0, noise_scan=False, oversampling=1
)
SERIES = ("batch", "coils", "frames", "ky", "kx", "complex")


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    described = {
        "SharedLines": [
            {"name": "kspace", "axes": SERIES},
            {"name": "mask", "axes": ("batch", "1", "frames", "ky", "1")},
        ],
        "OneSize": [{"name": "kspace", "axes": ("batch", "coils", 48, 32, "complex")}],
    }
    for name, inputs in described.items():
        options = ExportOptions.model_validate({"inputs": inputs, "complex_tensors": True})
        export_module(f"seriesnets:{name}", None, folder / name, options, formats=["torchscript"])
    return folder


@pytest.fixture
def send(networks, make_engine, make_service_with):
    service = make_service_with(make_engine(networks))

    def replay(protocol, bundle):
        parameters = f'{{"parameters": {{"bundle": "{bundle}"}}}}'
        return service.replay(simulate(protocol), "network.xml", parameters=parameters).images

    return replay


def shared_lines(protocol):
    """What ``SharedLines`` returns, by numpy, from the readouts."""
    lines = np.zeros((protocol.coils, 32, 32), np.complex128)
    times = np.zeros(32)
    for acquisition in simulate(protocol).items:
        row = acquisition.idx.kspace_encode_step_1
        lines[:, row] += acquisition.data
        times[row] += 1
    images = np.fft.ifft2(np.fft.ifftshift(lines / np.maximum(times, 1)[:, None], axes=(1, 2)), norm="ortho")
    return np.fft.fftshift(np.sqrt((np.abs(images) ** 2).sum(0)))


@pytest.mark.parametrize("counter", ["phase", "repetition"])
def test_a_network_of_series_gets_the_frames_that_the_header_announces(send, counter):
    protocol = replace(CINE, frame_counter=counter)
    images = send(protocol, "SharedLines")
    assert [image.meta["IsocenterBundle"] for image in images] == 4 * ["SharedLines"]
    assert [getattr(image, counter) for image in images] == [0, 1, 2, 3]
    expected = shared_lines(protocol)
    for image in images:
        assert "IsocenterFallback" not in image.meta
        np.testing.assert_allclose(image.data[0, 0], expected, atol=1e-5 * expected.max())


def test_a_network_of_slices_gets_one_frame_after_the_other(send):
    images = send(CINE, "rss")
    assert len(images) == 4
    assert not np.array_equal(images[0].data, images[2].data)


def test_a_scan_that_is_no_series_goes_to_the_fallback_which_says_why(send):
    (image,) = send(replace(CINE, frames=1), "SharedLines")
    assert image.meta["IsocenterBundle"] == "tv"
    assert "'SharedLines' was not made for this scan (a 2d scan, accepted is 2d+t)" in image.meta["IsocenterFallback"]


@pytest.mark.parametrize(("lines", "bundle"), [(48, "OneSize"), (40, "tv")])
def test_a_network_of_one_size_is_used_for_it_and_falls_back_for_others(send, lines, bundle):
    (image,) = send(replace(CINE, frames=1, phantom="shepp-logan", phase_oversampling=lines / 32), bundle="OneSize")
    assert image.meta["IsocenterBundle"] == bundle
    if bundle == "tv":
        assert "(ky 40, accepted is 48)" in image.meta["IsocenterFallback"]
