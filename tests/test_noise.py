"""Noise as scanners send it: damaged, of other channels, too little, late, and kept on disk by others."""

import io

import ismrmrd
import numpy as np
import pytest
import torch
from helpers import collect, random_acquisition
from isocenter.gadgets import load
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.noise_store import NoiseStore, short_name
from isocenter.gadgets.scan import Scan
from isocenter.simulate.header import header_xml
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.errors import DataError

STEPS = [(load("accumulate"), {}), (load("prewhiten"), {})]
COILS = 4


def noise(channels=COILS, samples=512, seed=0, **header):
    return random_acquisition(
        channels, samples, seed=seed, flags=1 << (ismrmrd.ACQ_IS_NOISE_MEASUREMENT - 1), sample_time_us=10.0, **header
    )


def scan_with(*noise_readouts, **protocol):
    """A small scan without noise of its own, after these noise readouts."""
    simulation = simulate(ScanProtocol(matrix=24, coils=COILS, noise_scan=False, **protocol))
    simulation.items = [*noise_readouts, *simulation.items]
    return simulation


def blocks_of(simulation, steps=STEPS, **options):
    out, scan = collect(steps, simulation, **options)
    return [item for item in out if isinstance(item, Kspace)], scan


def whitened_by(covariance, simulation):
    """What numpy makes of the scan's lines, by the formula of Pruessmann et al."""
    (plain,), _ = blocks_of(simulation, STEPS[:1])
    scale = np.sqrt(2 * 5.0 / 10.0 * 0.793)
    matrix = scale * np.linalg.inv(np.linalg.cholesky(covariance))
    return np.einsum("ij,jfzyx->ifzyx", matrix, plain.data.numpy())


def covariance_of(*arrays):
    samples = np.concatenate(arrays, axis=1).astype(complex)
    return samples @ samples.conj().T / (samples.shape[1] - 1)


def close(block, expected):
    return np.abs(block.data.numpy() - expected).max() < 1e-4 * np.abs(expected).max()


def depending_on(simulation, identifier):
    dependency = f"<dependencyType>Noise</dependencyType><measurementID>{identifier}</measurementID>"
    simulation.header = simulation.header.replace(
        "</protocolName>", f"</protocolName><measurementDependency>{dependency}</measurementDependency>"
    )
    return simulation


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, complex(0, np.nan)])
def test_samples_that_are_not_finite_stay_out_and_the_images_say_so(value):
    readout = noise()
    readout.data[1, 100] = readout.data[3, 7] = value
    (block,), scan = blocks_of(scan_with(readout))
    good = np.delete(readout.data, [7, 100], axis=1)
    assert close(block, whitened_by(covariance_of(good), scan_with()))
    assert "2 of 512 noise samples" in block.notes["Noise"]
    assert "NaN or infinite" in scan.problems["noise samples"]


def test_a_channel_that_is_never_finite_is_dead():
    readout = noise()
    readout.data[2] = np.nan
    (block,), scan = blocks_of(scan_with(readout))
    assert np.isfinite(block.data).all()
    assert "channel 2 has no noise" in block.notes["Noise"]
    assert "channel 2 has no noise" in scan.problems["noise channels"]


def test_a_dead_channel_is_scaled_like_the_others_which_are_whitened():
    readout = noise()
    readout.data[2] = 0
    (block,), _ = blocks_of(scan_with(readout))
    covariance = covariance_of(readout.data)
    covariance[2, 2] = np.median(np.delete(np.diag(covariance).real, 2))
    assert close(block, whitened_by(covariance, scan_with()))


@pytest.mark.parametrize(
    ("readouts", "reason"),
    [
        ([noise(samples=7)], "only 7 usable noise samples for 4 channels"),
        ([noise(samples=1)], "only 1 usable noise samples"),
        ([noise(channels=3)], "data has 4 channels but the noise 3"),
    ],
)
def test_noise_that_cannot_be_used_is_named_and_the_data_goes_on_or_not(readouts, reason):
    (block,), scan = blocks_of(scan_with(*readouts))
    assert reason in block.notes["Noise"]
    assert block.notes["Noise"].startswith("not prewhitened")
    assert any(reason in text and "noise" in text for text in scan.problems.values())
    assert close(block, blocks_of(scan_with(), STEPS[:1])[0][0].data.numpy())
    strict = [STEPS[0], (load("prewhiten"), {"pass_nonconformant_data": False})]
    assert not blocks_of(scan_with(*readouts), strict)[0]


@pytest.mark.parametrize("fill", [0, np.nan])
def test_readouts_without_any_noise_are_named(fill):
    readout = noise()
    readout.data[:] = fill
    (block,), _ = blocks_of(scan_with(readout))
    assert "not prewhitened" in block.notes["Noise"]
    assert np.isfinite(block.data).all()


def test_channels_that_are_copies_are_not_whitened():
    readout = noise()
    readout.data[1] = readout.data[0]
    (block,), _ = blocks_of(scan_with(readout))
    assert "singular" in block.notes["Noise"]


def test_a_stray_noise_readout_of_other_channels_does_no_harm():
    good = noise()
    (block,), scan = blocks_of(scan_with(noise(channels=2, samples=4000), good))
    assert close(block, whitened_by(covariance_of(good.data), scan_with()))
    assert "2 or 4 channels" in block.notes["Noise"]
    assert "2 or 4 channels" in scan.problems["noise readouts"]


@pytest.mark.parametrize("dwell_time", [0.0, np.nan, np.inf, -1.0])
def test_a_dwell_time_that_is_none_counts_as_that_of_the_data(dwell_time):
    readout = noise()
    readout.sample_time_us = dwell_time
    (block,), _ = blocks_of(scan_with(readout))
    expected = whitened_by(covariance_of(readout.data), scan_with()) / np.sqrt(2 * 5.0 / 10.0 * 0.793)
    assert close(block, expected)


@pytest.mark.parametrize("bandwidth", ["0", "-1", "NaN", "INF"])
def test_a_bandwidth_that_is_none_is_the_usual_one(bandwidth):
    simulation = scan_with(noise())
    simulation.header = simulation.header.replace("Bandwidth>0.793<", f"Bandwidth>{bandwidth}<")
    (block,), _ = blocks_of(simulation)
    assert close(block, whitened_by(covariance_of(simulation.items[0].data), scan_with()))


def test_all_blocks_of_a_scan_are_whitened_or_none():
    """Intensities of its slices could not be compared otherwise."""
    simulation = simulate(ScanProtocol(matrix=24, coils=COILS, noise_scan=False, slices=2))
    simulation.items.insert(30, noise())
    blocks, scan = blocks_of(simulation)
    plain, _ = blocks_of(simulate(simulation.protocol), STEPS[:1])
    assert len(blocks) == 2
    assert all(torch.equal(block.data, other.data) for block, other in zip(blocks, plain, strict=True))
    assert "came only after the first data" in blocks[1].notes["Noise"]
    assert "came only after the first data" in scan.problems["noise"]


def test_images_of_a_scan_without_noise_have_nothing_to_say():
    (block,), scan = blocks_of(scan_with())
    assert "Noise" not in block.notes
    assert not scan.problems


def test_lines_that_were_whitened_early_are_noted_too(service):
    simulation = simulate(ScanProtocol(matrix=64, coils=COILS))
    simulation.items[0].data[0, 3] = np.nan
    result = service.replay(simulation)
    assert "1 of 2048 noise samples" in result.images[0].meta["IsocenterNoise"]
    assert "noise readouts hold NaN" in "".join(result.texts)


def _npy():
    file = io.BytesIO()
    np.save(file, np.eye(4))
    return file.getvalue()


class TestStore:
    @pytest.fixture
    def kept(self, tmp_path):
        """A folder with the noise of measurement ``before``, and its covariance."""
        earlier = scan_with(noise(seed=5), measurement_id="before")
        blocks_of(earlier, noise_folder=tmp_path)
        return tmp_path, covariance_of(earlier.items[0].data)

    def damage(self, folder, **change):
        (path,) = folder.iterdir()
        with np.load(path) as file:
            content = {**file, **change}
        np.savez(path, **{name: value for name, value in content.items() if value is not None})

    def test_it_is_used_without_a_word_where_it_is_sound(self, kept):
        folder, covariance = kept
        (block,), scan = blocks_of(depending_on(scan_with(), "before"), noise_folder=folder)
        assert close(block, whitened_by(covariance, scan_with()))
        assert "Noise" not in block.notes
        assert not scan.problems

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ({"matrix": np.full((4, 4), np.nan)}, "holds NaN or infinite"),
            ({"matrix": np.triu(np.ones((4, 4))) + 3j}, "is not Hermitian"),
            ({"matrix": -np.eye(4)}, "negative variances"),
            ({"matrix": np.ones((4, 4))}, "is singular"),
            ({"matrix": np.zeros((4, 4))}, "no noise in any channel"),
            ({"matrix": np.ones((4, 3))}, "has the shape (4, 3)"),
            ({"matrix": np.ones(0)}, "has the shape (0,)"),
            ({"bandwidth": np.nan}, "bandwidth"),
            ({"dwell_time": np.nan}, "dwell time"),
            ({"matrix": np.eye(4) * 1e-200}, "variances"),
            ({"matrix": np.eye(4, dtype=str)}, "cannot be read"),
            ({"system": "[1]"}, "cannot be read"),
            ({"time": "yesterday"}, "cannot be read"),
            ({"coil_names": np.array(["a", "b"])}, "names 2 coils for 4 channels"),
            ({"dwell_time": None}, "cannot be read"),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("own_noise", [True, False])
    def test_what_is_not_sound_is_named_and_not_used(self, kept, change, fault, own_noise):
        folder, _ = kept
        self.damage(folder, **change)
        own = [noise(seed=9)] if own_noise else []
        (block,), scan = blocks_of(depending_on(scan_with(*own), "before"), noise_folder=folder)
        assert f"noise measurement {short_name('before')}" in scan.problems["noise store"]
        assert fault in scan.problems["noise store"]
        if own_noise:
            assert close(block, whitened_by(covariance_of(own[0].data), scan_with()))
            assert "Noise" not in block.notes
        else:
            assert block.notes["Noise"].startswith("not prewhitened")
            assert short_name("before") in block.notes["Noise"]

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x93NUMPY", b"rubbish" * 100, _npy()])
    def test_a_damaged_file_is_named(self, kept, content):
        folder, _ = kept
        (path,) = folder.iterdir()
        path.write_bytes(content if content else path.read_bytes()[:200])
        with pytest.raises(DataError, match=f"{short_name('before')} cannot be read"):
            NoiseStore(folder).find("before", {})
        (summary,) = load("noise_summary")(
            iter([]), Scan(header_xml(ScanProtocol(matrix=16)), noise_folder=folder), noise_file="before"
        )
        assert summary.values == {"status": "failed"}

    def test_noise_that_is_named_but_nowhere_is_missed(self, tmp_path):
        (block,), scan = blocks_of(depending_on(scan_with(), "gone"), noise_folder=tmp_path)
        assert short_name("gone") in block.notes["Noise"]
        assert "not kept here" in scan.problems["noise"]
        assert "gone" not in scan.problems["noise"]

    @pytest.mark.parametrize("fill", [np.nan, 0])
    def test_bad_noise_does_not_replace_what_is_kept(self, kept, fill):
        folder, covariance = kept
        bad = scan_with(noise(), measurement_id="before")
        bad.items[0].data[:] = fill
        blocks_of(bad, noise_folder=folder)
        (kept,) = NoiseStore(folder).find("before", {})
        assert np.allclose(kept.covariance.matrix, covariance, rtol=1e-5)

    def test_other_channels_than_the_datas_leave_it_to_the_scans_own(self, kept):
        folder, _ = kept
        simulation = depending_on(simulate(ScanProtocol(matrix=24, coils=3, noise_scan=False)), "before")
        own = noise(channels=3)
        simulation.items.insert(0, own)
        (block,), _ = blocks_of(simulation, noise_folder=folder)
        assert close(
            block, whitened_by(covariance_of(own.data), simulate(ScanProtocol(matrix=24, coils=3, noise_scan=False)))
        )

    def test_a_disk_that_does_not_take_it_is_reported_and_leaves_nothing(self, tmp_path):
        folder = tmp_path / "file"
        folder.write_text("no folder")
        _, scan = blocks_of(scan_with(noise(), measurement_id="a"), noise_folder=folder)
        assert "cannot be kept for later scans" in scan.problems["noise folder"]
        assert list(tmp_path.iterdir()) == [folder]


def test_a_noise_readout_is_not_changed():
    readout = noise()
    readout.data[0, 0] = np.nan
    before = readout.data.copy()
    blocks_of(scan_with(readout))
    assert np.array_equal(readout.data, before, equal_nan=True)
