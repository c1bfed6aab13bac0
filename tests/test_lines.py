"""What pictures say of the lines that an image was made from."""

import pytest
from isocenter.commands.replayed import ghost_distance, read_lines
from isocenter.simulate.scan import ScanProtocol, simulate

KT = {"phantom": "heart", "frames": 6, "sampling": "kt-interleaved", "acceleration": 6, "acs": 8}
POINTS = {"partitions": 24, "sampling": "poisson-disc", "acceleration": 4, "acs": 8}


@pytest.mark.parametrize(
    ("protocol", "what", "factor"),
    [
        ({}, "lines", "complete"),
        ({"acceleration": 2, "acs": 8}, "lines", "R 2"),
        (KT, "lines", "R 6"),
        (POINTS, "kz-ky points", "R 4"),
        ({"partitions": 8}, "kz-ky points", "complete"),
    ],
)
def test_lines_are_those_of_one_image(protocol, what, factor, tmp_path):
    scan = simulate(ScanProtocol(**{"matrix": 48, "coils": 2, "noise_scan": False, **protocol}))
    scan.save(tmp_path / "scan.h5")
    encoding, lines = read_lines(tmp_path / "scan.h5", "dataset")
    points = scan.protocol.imaging_points(0) | scan.protocol.calibration_points()
    assert str(lines) == f"{factor}, {points.sum()} of {points.size} {what}"
    assert ghost_distance(encoding, lines) == (int(factor[2:]) if factor[0] == "R" and what == "lines" else 1)
