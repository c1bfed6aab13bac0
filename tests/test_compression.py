import struct

import ismrmrd
import numpy as np
import pytest
from helpers import random_acquisition
from isocenter.commands.client import Compression, _encode_compressed
from isocenter.wire import Decoder, ProtocolError
from isocenter.wire.compression import compress_nhlbi, decompress_nhlbi


@pytest.mark.parametrize("bits", [2, 5, 8, 13, 16, 24])
def test_nhlbi_error_is_half_a_step(bits):
    data = random_acquisition(3, 101).data
    restored = decompress_nhlbi(compress_nhlbi(data, bits=bits), 2 * data.size).view(np.complex64).reshape(data.shape)
    step = np.abs(data.view(np.float32)).max() / (2 ** (bits - 1) - 1)
    rounding = 1e-6 * np.abs(data).max()
    assert np.abs((restored - data).view(np.float32)).max() <= 0.5001 * step + rounding


@pytest.mark.parametrize("tolerance", [1e-3, 0.1, 1.0])
def test_nhlbi_keeps_to_the_tolerance(tolerance):
    data = 30 * random_acquisition(2, 64).data
    restored = (
        decompress_nhlbi(compress_nhlbi(data, tolerance=tolerance), 2 * data.size)
        .view(np.complex64)
        .reshape(data.shape)
    )
    assert np.abs((restored - data).view(np.float32)).max() <= 1.001 * tolerance


def test_nhlbi_bit_layout():
    """Three values of 5 bits, least significant bit first, two's complement: 1, -1, 3 with scale 2."""
    packed = 0b00001 | (0b11111 << 5) | (0b00011 << 10)
    blob = struct.pack("<QfB", 3, 2.0, 5) + packed.to_bytes(2, "little")
    assert decompress_nhlbi(blob, 3).tolist() == [0.5, -0.5, 1.5]


@pytest.mark.parametrize(
    "blob", [b"", struct.pack("<QfB", 4, 1.0, 8) + b"\0" * 3, struct.pack("<QfB", 4, 1.0, 40) + b"\0" * 40]
)
def test_a_broken_blob_is_refused(blob):
    with pytest.raises(ProtocolError, match="NHLBI"):
        decompress_nhlbi(blob, 4)


@pytest.mark.parametrize("method", ["nhlbi", "zfp"])
def test_a_compressed_readout_decodes_to_an_ordinary_one(method):
    if method == "zfp":
        pytest.importorskip("zfpy")
    acquisition = random_acquisition(4, 32, trajectory=2, scan_counter=9)
    encoded = b"".join(
        bytes(part) for part in _encode_compressed(acquisition, Compression(method, tolerance=1e-3), 1.0)
    )
    (decoded,) = Decoder().feed(encoded)
    assert not decoded.is_flag_set(ismrmrd.ACQ_COMPRESSION1)
    assert not decoded.is_flag_set(ismrmrd.ACQ_COMPRESSION2)
    assert decoded.scan_counter == 9
    assert np.array_equal(decoded.traj, acquisition.traj)
    assert np.abs(decoded.data - acquisition.data).max() < 3e-3
