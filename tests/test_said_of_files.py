"""What is said of files that are right in themselves, but are not what a command takes."""

import numpy as np
import pytest
from isocenter.simulate.errors import SimulationError
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire.errors import FileError
from isocenter.wire.files import ImageWriter, MrdFile
from isocenter.wire.items import ImageHeader, make_image
from test_cli import isocenter


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.h5"
    simulate(ScanProtocol(matrix=16, coils=2)).save(path)
    return path


def test_a_truth_is_called_one(scan):
    said = isocenter("view", "scan.truth.h5", cwd=scan.parent, status=2)
    assert "scan.truth.h5 is the truth of a simulated scan" in said
    assert "accepted: the scan, scan.h5" in said


def test_a_scan_that_is_cut_off_might_be_shown_if_it_were_whole(scan):
    (scan.parent / "cut.h5").write_bytes(scan.read_bytes()[:5000])
    assert "accepted: a whole MRD file of a scan or of images" in isocenter("view", "cut.h5", cwd=scan.parent, status=2)


def test_what_is_no_plain_file_is_no_pipeline(tmp_path):
    said = isocenter("pipelines", "check", "/dev/null", cwd=tmp_path, status=2)
    assert "/dev/null is no plain file; accepted: a pipeline's file" in said


def test_images_are_not_sent_as_a_scan(tmp_path):
    writer = ImageWriter(tmp_path / "images.h5", "first", print)
    writer.write(make_image(np.ones((1, 1, 8, 8), np.float32), ImageHeader()))
    writer.close()
    with pytest.raises(FileError, match="holds images, and no scan; accepted: a file with a scan in it"):
        MrdFile(tmp_path / "images.h5")


def test_matrices_have_the_limits_that_the_help_says(tmp_path):
    assert "x>=8" in isocenter("simulate", "--help", cwd=tmp_path)
    for matrix in (7, 65536):
        with pytest.raises(SimulationError, match="accepted: 8 to 65535"):
            ScanProtocol(matrix=matrix)
