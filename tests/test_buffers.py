"""A scan gives the same image whether it comes as readouts, as Gadgetron's bucket, or as its buffers."""

import ismrmrd
import isocenter
import numpy as np
import pytest
from gadgetron_buffers import bucket, buffers
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.errors import IsocenterError

protocols = st.fixed_dictionaries(
    {
        "matrix": st.sampled_from([24, 25, 31]),
        "coils": st.sampled_from([3, 4]),
        "oversampling": st.sampled_from([1, 2]),
        "slices": st.sampled_from([1, 2, 3]),
        "acceleration": st.sampled_from([1, 2]),
        "acs": st.sampled_from([8, 12]),
        "calibration": st.sampled_from(["embedded", "separate"]),
        "averages": st.sampled_from([1, 1, 3]),
        "frames": st.sampled_from([1, 2]),
        "frame_counter": st.sampled_from(["phase", "repetition"]),
        "partial_fourier": st.sampled_from([1.0, 0.75]),
        "phase_resolution": st.sampled_from([1.0, 0.8]),
        "noise_scan": st.just(False),
    }
)


def same_images(scan, pipeline, *forms):
    """The readouts of a scan, and each of some other forms that they are in."""

    def key(image):
        return image.slice, image.phase, image.repetition

    expected = isocenter.reconstruct((scan.header, scan.items), pipeline)
    for items in forms:
        found = isocenter.reconstruct((scan.header, items), pipeline)
        assert len(found) == len(expected) > 0
        for ours, theirs in zip(sorted(found, key=key), sorted(expected, key=key), strict=True):
            assert key(ours) == key(theirs)
            assert ours.position[:] == theirs.position[:]
            assert np.abs(ours.data - theirs.data).max() <= 1e-6 * np.abs(theirs.data).max()


def with_parallel_imaging(scan):
    """Gadgetron makes buffers of the whole matrix only where the header has this element."""
    if "<parallelImaging>" not in scan.header:
        element = (
            "<parallelImaging><accelerationFactor><kspace_encoding_step_1>1</kspace_encoding_step_1>"
            "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor></parallelImaging>"
        )
        scan.header = scan.header.replace("</trajectory>", f"</trajectory>{element}", 1)
    return scan


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(protocols, st.data())
@pytest.mark.filterwarnings("ignore:.*(are to be expected|is not filled in)")  # tiny images by few coils
def test_readouts_bucket_and_buffers_give_the_same_image(engine, protocol, data):
    scan = with_parallel_imaging(simulate(ScanProtocol(**protocol)))
    pipeline = "sense.xml" if protocol["acceleration"] > 1 else "rss.xml"
    n, s = data.draw(st.sampled_from([("", ""), ("phase", "average"), ("average", ""), ("repetition", "")]))
    collected = bucket(scan.items)
    split = data.draw(st.booleans())
    same_images(scan, pipeline, [collected], list(buffers(scan.header, collected, n, s, split_slices=split)))


@pytest.mark.parametrize("calibration", ["embedded", "separate"])
def test_a_volume_gives_the_same_image(engine, calibration):
    scan = with_parallel_imaging(
        simulate(
            ScanProtocol(
                matrix=20, coils=4, partitions=6, acceleration=2, acs=10, calibration=calibration, noise_scan=False
            )
        )
    )
    collected = bucket(scan.items)
    same_images(scan, "sense.xml", [collected], list(buffers(scan.header, collected)))


def test_lines_that_a_buffer_had_no_room_for_are_missed(engine):
    """Without parallelImaging in the header, Gadgetron's buffers have a row for each line of the limits, and shift them all the
    same."""
    scan = simulate(ScanProtocol(matrix=24, coils=3, partial_fourier=0.75, noise_scan=False))
    with pytest.warns(isocenter.ReconstructionWarning, match="lines are missing"):
        (image,) = isocenter.reconstruct((scan.header, list(buffers(scan.header, bucket(scan.items)))), "rss.xml")
    assert "lines are missing" in image.meta["IsocenterIncomplete"]


def test_buffers_off_the_cartesian_grid_are_refused_by_name(engine):
    scan = simulate(ScanProtocol(matrix=24, coils=3, noise_scan=False))
    (data,) = buffers(scan.header, bucket(scan.items))
    angles = np.arange(24)[:, None] * np.pi / 24
    spokes = np.linspace(-0.5, 0.5, 48) * np.exp(1j * angles)
    data.bits[0].data.trajectory = np.stack([spokes.real, spokes.imag], -1)[None, None, None, None].astype(np.float32)
    with (
        pytest.raises(IsocenterError, match="trajectory"),
        pytest.warns(isocenter.ReconstructionWarning, match="trajectory"),
    ):
        isocenter.reconstruct((scan.header, [data]), "rss.xml")


def test_a_large_bucket_is_decoded_in_linear_time():
    """Its arrays are looked for once they are all there, not once for each of them."""
    from isocenter.wire import decoder as module
    from isocenter.wire import encode
    from isocenter.wire.decoder import Decoder

    readouts = [ismrmrd.Acquisition.from_array(np.ones((2, 16), np.complex64)) for _ in range(500)]
    attempts = 0
    original = module._READERS[module.MessageId.BUCKET]

    def counted(cursor):
        nonlocal attempts
        attempts += 1
        return original(cursor)

    module._READERS[module.MessageId.BUCKET] = counted
    try:
        decoder, found = Decoder(), []
        for part in encode(bucket(readouts)):
            found += decoder.feed(bytes(part))
    finally:
        module._READERS[module.MessageId.BUCKET] = original
    assert len(found[0].data) == 500
    assert attempts < 40
