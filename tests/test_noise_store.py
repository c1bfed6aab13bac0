"""Covariances kept from scan to scan: whose they are, what comes again, what is damaged, and what fits which coils."""

import os
import re
import stat

import numpy as np
import pytest
import torch
from isocenter.flow.ledger import Ledger
from isocenter.gadgets.noise import NoiseCovariance
from isocenter.gadgets.noise_store import HOLDS_SECONDS, MOST_SYSTEMS, NoiseStore, agreement, short_name
from isocenter.wire.errors import DataError
from isocenter.wire.items import Interruption
from test_noise import STEPS, blocks_of, close, covariance_of, depending_on, noise, scan_with, whitened_by

OURS = {"systemVendor": "Maker", "systemModel": "M1", "stationName": "MR1", "deviceSerialNumber": "41672"}


def on_system(simulation, system, coils=()):
    """Write a system's names, in the schema's order, and its coils into a scan's header."""
    order = ("systemVendor", "systemModel", "relativeReceiverNoiseBandwidth", "coils", "institutionName")
    order = (*order, "stationName", "deviceID", "deviceSerialNumber")
    labels = "".join(f"<coilLabel><coilNumber>{n}</coilNumber><coilName>{c}</coilName></coilLabel>" for n, c in coils)
    parts = {name: f"<{name}>{value}</{name}>" for name, value in system.items()}
    parts |= {
        "relativeReceiverNoiseBandwidth": "<relativeReceiverNoiseBandwidth>0.793</relativeReceiverNoiseBandwidth>"
    }
    inside = "".join({**parts, "coils": labels}.get(name, "") for name in order)
    part = f"<acquisitionSystemInformation>{inside}</acquisitionSystemInformation>"
    pattern = r"<acquisitionSystemInformation>.*</acquisitionSystemInformation>"
    simulation.header = re.sub(pattern, part, simulation.header)
    return simulation


def measure(folder, seed, system=OURS, coils=(), readouts=None, **options):
    """Measure noise alone under the id ``m``; return its covariance and the scan."""
    readouts = readouts or [noise(seed=seed)]
    simulation = on_system(scan_with(*readouts, measurement_id="m"), system, coils)
    simulation.items = readouts
    _, scan = blocks_of(simulation, STEPS[1:], noise_folder=folder, **options)
    return covariance_of(*(readout.data for readout in readouts)), scan


def depend(folder, system=OURS, *own, coils=()):
    """Run a scan that depends on ``m``; return its block and the scan."""
    (block,), scan = blocks_of(on_system(depending_on(scan_with(*own), "m"), system, coils), noise_folder=folder)
    return block, scan


def is_whitened_by(block, covariance):
    return close(block, whitened_by(covariance, scan_with()))


class TestWhoseItIs:
    @pytest.mark.parametrize(
        "change",
        [
            {"deviceSerialNumber": "1"},
            {"deviceSerialNumber": "", "stationName": "MR2"},
            {"systemVendor": "X", "deviceSerialNumber": ""},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("first", ["ours", "stranger's"])
    def test_a_stranger_replaces_nothing_and_is_not_used(self, tmp_path, change, first):
        ours = {**OURS, "deviceSerialNumber": "41672" if change.get("deviceSerialNumber") else ""}
        if first == "ours":
            covariance, _ = measure(tmp_path, 1, ours)
        measure(tmp_path, 2, {**ours, **change})
        if first != "ours":
            covariance, _ = measure(tmp_path, 1, ours)
        block, scan = depend(tmp_path, ours)
        assert is_whitened_by(block, covariance)
        assert "Noise" not in block.notes
        assert not scan.problems

    def test_where_there_is_only_a_strangers_there_is_none(self, tmp_path):
        measure(tmp_path, 2, {**OURS, "deviceSerialNumber": "1"})
        block, scan = depend(tmp_path)
        assert "not prewhitened" in block.notes["Noise"]
        assert block.notes["NoiseSource"] == "none"
        assert "by another system only" in scan.problems["noise store"]
        own = noise(seed=3)
        block, _ = depend(tmp_path, OURS, own)
        assert is_whitened_by(block, covariance_of(own.data))

    @pytest.mark.parametrize(
        "host",
        [
            {"stationName": "ANOTHER", "institutionName": "elsewhere"},
            {"systemVendor": "", "systemModel": "", "stationName": ""},
            {"deviceSerialNumber": "", "stationName": ""},
            {"systemVendor": " MAKER "},
        ],
        ids=str,
    )
    def test_it_is_found_whichever_host_the_scan_came_through(self, tmp_path, host):
        covariance, _ = measure(tmp_path, 1)
        block, scan = depend(tmp_path, {**OURS, **host})
        assert is_whitened_by(block, covariance)
        assert not scan.problems

    @pytest.mark.parametrize(("measured", "wanted"), [({}, OURS), (OURS, {})])
    def test_where_nothing_tells_the_systems_apart_images_say_so(self, tmp_path, measured, wanted):
        covariance, _ = measure(tmp_path, 1, measured)
        block, scan = depend(tmp_path, wanted)
        assert is_whitened_by(block, covariance)
        assert "whether the noise was measured on this system" in block.notes["Noise"]
        assert "the headers do not tell" in scan.problems["noise system"]
        own = noise(seed=3)
        block, scan = depend(tmp_path, wanted, own)
        assert is_whitened_by(block, covariance_of(own.data))
        assert not scan.problems

    def test_of_several_systems_none_is_guessed(self, tmp_path):
        for serial in "12":
            measure(tmp_path, int(serial), {**OURS, "deviceSerialNumber": serial})
        block, scan = depend(tmp_path, {"systemVendor": "Maker"})
        assert "not prewhitened" in block.notes["Noise"]
        assert "by several systems" in scan.problems["noise store"]

    def test_noise_of_an_uncertain_system_replaces_nobodys(self, tmp_path):
        stations = [{"systemVendor": "Maker", "stationName": name} for name in ("MR1", "MR2")]
        covariances = [measure(tmp_path, seed, system)[0] for seed, system in enumerate(stations)]
        measure(tmp_path, 7, {"systemVendor": "Maker"})
        measure(tmp_path, 8, {})
        for system, covariance in zip(stations, covariances, strict=True):
            block, scan = depend(tmp_path, system)
            assert is_whitened_by(block, covariance)
            assert not scan.problems

    def test_systems_of_one_id_are_bounded(self, tmp_path):
        for serial in range(MOST_SYSTEMS + 1):
            _, scan = measure(tmp_path, serial, {"deviceSerialNumber": f"{serial}x"})
        assert "other systems already" in scan.problems["noise store"]
        assert len(list(tmp_path.iterdir())) == MOST_SYSTEMS

    @pytest.mark.parametrize(
        ("one", "other", "expected"),
        [
            ({}, {}, 0),
            ({"deviceID": "1"}, {"deviceID": "2"}, None),
            ({"deviceID": "1", "stationName": "a"}, {"deviceID": "1", "stationName": "b"}, 100),
            ({"systemVendor": "a", "stationName": "a"}, {"systemVendor": "a", "stationName": "b"}, None),
            ({"systemVendor": "a", "stationName": "a"}, {"systemVendor": "a", "systemModel": "b"}, 1),
            ({"systemVendor": "a"}, {"systemModel": "b"}, 0),
        ],
    )
    def test_agreement_is_symmetric(self, one, other, expected):
        assert agreement(one, other) == agreement(other, one) == expected


class TestAgain:
    def test_the_first_stays_and_everybody_is_told(self, tmp_path):
        covariance, _ = measure(tmp_path, 1)
        before, _ = depend(tmp_path)
        for seed in (2, 3, 4):
            _, scan = measure(tmp_path, seed)
            assert "measured before with other noise" in scan.problems["noise store"]
        block, scan = depend(tmp_path)
        assert is_whitened_by(block, covariance)
        assert torch.equal(block.data, before.data)
        assert "more than once" in block.notes["Noise"]
        assert "more than once" in scan.problems["noise again"]
        assert len(list(tmp_path.iterdir())) == 2
        own = noise(seed=9)
        block, _ = depend(tmp_path, OURS, own)
        assert is_whitened_by(block, covariance_of(own.data)), "noise of its own is not in doubt"

    def test_a_scan_with_images_need_not_know_that_its_id_is_not_unique(self, tmp_path):
        measure(tmp_path, 1)
        own = noise(seed=2)
        (block,), scan = blocks_of(on_system(scan_with(own, measurement_id="m"), OURS), noise_folder=tmp_path)
        assert is_whitened_by(block, covariance_of(own.data))
        assert "Noise" not in block.notes
        assert not scan.problems
        block, _ = depend(tmp_path)
        assert "more than once" in block.notes["Noise"]

    def test_the_same_again_changes_nothing(self, tmp_path):
        measure(tmp_path, 1)
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        _, scan = measure(tmp_path, 1)
        assert not scan.problems
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_after_a_day_the_id_is_anothers(self, tmp_path):
        measure(tmp_path, 1)
        measure(tmp_path, 2)
        for path in tmp_path.iterdir():
            past = path.stat().st_mtime - HOLDS_SECONDS - 60
            os.utime(path, (past, past))
        covariance, scan = measure(tmp_path, 3)
        assert not scan.problems
        block, scan = depend(tmp_path)
        assert is_whitened_by(block, covariance)
        assert not scan.problems
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_scan_may_repeat_noise_that_was_interrupted(self, tmp_path):
        simulation = on_system(scan_with(noise(seed=1), measurement_id="m"), OURS)
        simulation.items = [simulation.items[0], Interruption("cut off")]
        blocks_of(simulation, STEPS[1:], noise_folder=tmp_path)
        block, scan = depend(tmp_path)
        assert "the scan that measured the noise was interrupted" in block.notes["Noise"]
        covariance, scan = measure(tmp_path, 2)
        assert not scan.problems
        block, scan = depend(tmp_path)
        assert is_whitened_by(block, covariance)
        assert not scan.problems

    def test_noise_that_goes_on_after_the_data_is_added(self, tmp_path):
        simulation = on_system(scan_with(noise(seed=1), measurement_id="m"), OURS)
        more = noise(seed=2)
        simulation.items.append(more)
        _, scan = blocks_of(simulation, noise_folder=tmp_path)
        assert not scan.problems
        block, _ = depend(tmp_path)
        assert is_whitened_by(block, covariance_of(simulation.items[0].data, more.data))


class TestFiles:
    def test_images_say_where_the_noise_comes_from(self, tmp_path):
        measure(tmp_path, 1, name="scan-a")
        block, _ = depend(tmp_path)
        (kept,) = NoiseStore(tmp_path).find("m", {})
        assert block.notes["NoiseSource"] == "measurement m"
        assert block.notes["NoiseTime"] == kept.time
        assert block.notes["NoiseSamples"] == "512"
        assert block.notes["NoiseHash"] == kept.covariance.digest
        assert kept.scan == "scan-a"
        (block,), _ = blocks_of(scan_with(noise(seed=1)))
        assert block.notes == {
            "NoiseSource": "noise readouts of this scan",
            "NoiseSamples": "512",
            "NoiseHash": kept.covariance.digest,
        }
        assert blocks_of(scan_with())[0][0].notes == {"NoiseSource": "none"}

    def test_only_their_owner_may_read_them(self, tmp_path):
        folder = tmp_path / "home" / "noise"
        measure(folder, 1)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600]

    def test_files_of_before_are_read(self, tmp_path):
        measure(tmp_path, 1)
        (path,) = tmp_path.iterdir()
        with np.load(path) as file:
            content = {name: file[name] for name in ("matrix", "dwell_time", "bandwidth", "coil_names")}
        path.unlink()
        np.savez(tmp_path / f"{path.name[:32]}.npz", **content)
        block, _ = depend(tmp_path)
        assert is_whitened_by(block, content["matrix"])
        assert block.notes["NoiseSource"] == "measurement m"
        assert block.notes["NoiseSamples"] == "unknown"
        covariance, _ = measure(tmp_path, 2)
        block, scan = depend(tmp_path)
        assert is_whitened_by(block, covariance), "one of this system is better than one of an unknown system"
        assert not scan.problems

    def test_every_damaged_byte_costs_itself_only(self, tmp_path):
        covariance, _ = measure(tmp_path, 1)
        (path,) = tmp_path.iterdir()
        content = path.read_bytes()
        usable = 0
        for place in range(0, len(content), 5):
            path.write_bytes(content[:place] + bytes([content[place] ^ 0x5A]) + content[place + 1 :])
            try:
                kept = NoiseStore(tmp_path).find("m", {})
            except DataError:
                continue
            usable += 1
            assert not kept or np.allclose(kept[0].covariance.matrix, covariance, rtol=1e-5)
        assert usable < len(content) / 10

    def test_the_next_measurement_that_the_header_names_takes_over(self, tmp_path):
        covariance, _ = measure(tmp_path, 1)
        simulation = on_system(depending_on(depending_on(scan_with(), "m"), "gone"), OURS)
        (block,), _ = blocks_of(simulation, noise_folder=tmp_path)
        assert is_whitened_by(block, covariance)

    def test_what_cannot_be_written_leaves_nothing(self, tmp_path):
        measure(tmp_path, 1)
        (path,) = tmp_path.iterdir()
        path.unlink()
        path.mkdir()
        _, scan = measure(tmp_path, 1)
        assert "cannot be kept for later scans" in scan.problems["noise folder"]
        assert list(tmp_path.iterdir()) == [path]

    def test_what_is_not_sound_is_not_written(self, tmp_path):
        _, scan = depend(tmp_path)
        for matrix in (np.full((2, 2), np.nan), np.ones((2, 2)), np.array([[1, 2], [0, 1]])):
            with pytest.raises(DataError, match="noise covariance"):
                NoiseStore(tmp_path).keep("m", NoiseCovariance(matrix.astype(complex), 1.0, 0.8), scan)
        assert not list(tmp_path.iterdir())

    def test_nothing_that_is_told_holds_the_id(self, tmp_path):
        identifier = "41672_PATIENT7_20261126_88"
        assert short_name(identifier) not in identifier
        _, scan = blocks_of(depending_on(scan_with(), identifier), noise_folder=tmp_path)
        assert not any("PATIENT7" in text for text in scan.problems.values())


class TestCoils:
    ABCD = tuple(enumerate("ABCD"))

    def test_another_order_is_followed(self, tmp_path):
        covariance, _ = measure(tmp_path, 1, coils=self.ABCD)
        block, _ = depend(tmp_path, coils=tuple(enumerate("DBCA")))
        order = [3, 1, 2, 0]
        assert is_whitened_by(block, covariance[np.ix_(order, order)])

    def test_some_of_the_coils_have_some_of_the_noise(self, tmp_path):
        readout = noise(channels=6, seed=1)
        covariance, _ = measure(tmp_path, 1, coils=tuple(enumerate("EABCDF")), readouts=[readout])
        block, scan = depend(tmp_path, coils=self.ABCD)
        assert is_whitened_by(block, covariance[1:5, 1:5])
        assert not scan.problems

    def test_other_coils_do_not_fit(self, tmp_path):
        measure(tmp_path, 1, coils=self.ABCD)
        block, scan = depend(tmp_path, coils=tuple(enumerate("ABCX")))
        assert block.notes["Noise"] == "not prewhitened: data has coils that the noise was not measured with"
        assert "coils" in scan.problems["noise"]
        own = noise(seed=3)
        block, _ = depend(tmp_path, OURS, own, coils=tuple(enumerate("ABCX")))
        assert is_whitened_by(block, covariance_of(own.data))

    def test_names_that_are_not_as_many_as_the_channels_tell_nothing(self, tmp_path):
        covariance, _ = measure(tmp_path, 1, coils=tuple(enumerate("ABCDEFGH")))
        block, _ = depend(tmp_path, coils=tuple(enumerate("XY")))
        assert is_whitened_by(block, covariance)


class TestOverTheWire:
    NOISE = "default_measurement_dependencies.xml"

    def send_noise(self, service, seed, **change):
        simulation = on_system(scan_with(noise(seed=seed), measurement_id="m"), {**OURS, **change})
        simulation.items = simulation.items[:1]
        return "".join(service.replay(simulation, self.NOISE).texts)

    def image(self, service):
        result = service.replay(on_system(depending_on(scan_with(), "m"), OURS))
        (image,) = result.images
        return image, "".join(result.texts)

    def test_a_strangers_noise_under_the_same_id_changes_no_image(self, service):
        assert not self.send_noise(service, 1)
        before, _ = self.image(service)
        assert before.meta["IsocenterNoiseSource"] == "measurement m"
        assert not self.send_noise(service, 2, deviceSerialNumber="666")
        after, told = self.image(service)
        assert np.array_equal(before.data, after.data)
        assert before.meta == after.meta
        assert not told

    def test_other_noise_of_the_same_system_changes_none_either_and_is_told(self, service):
        self.send_noise(service, 1)
        before, _ = self.image(service)
        assert "measured before with other noise" in self.send_noise(service, 2)
        after, told = self.image(service)
        assert np.array_equal(before.data, after.data)
        assert "more than once" in told
        assert "more than once" in after.meta["IsocenterComplete"]


def test_noise_of_ever_new_channels_is_bounded():
    readouts = [noise(channels=channels, samples=2 * channels, seed=channels) for channels in (4, 100, 200, 300, 1025)]
    (block,), scan = blocks_of(scan_with(*readouts), ledger=Ledger(keeps=2**20))
    assert is_whitened_by(block, covariance_of(readouts[0].data))
    assert "noise readouts are not used" in scan.problems["noise memory"]
    assert not scan.ledger.kept
