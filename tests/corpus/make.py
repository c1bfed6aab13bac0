"""Makes the sessions that fuzzing starts from, with the simulator: ``python tests/corpus/make.py``."""

import json
from pathlib import Path

import ismrmrd
import numpy as np
from isocenter.commands.client import NOISE_QUERY, Compression, _encode_compressed
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import Close, ConfigFile, ConfigScript, Header, Query, Text, encode
from isocenter.wire.items import (
    ACQUISITION_HEADER,
    AcquisitionBucket,
    DicomFile,
    ImageArray,
    ReconBit,
    ReconBuffer,
    ReconData,
    make_image,
)

FOLDER = Path(__file__).parent
OWN = b"""<configuration><gadget name="accumulate"/><gadget name="prewhiten"/><gadget name="reconstruct">
<property name="bundle" value="rss"/></gadget><gadget name="extract"/><gadget name="finish"/></configuration>"""
ARRAYS = b"""<configuration><gadget name="adjust_field_of_view"/><gadget name="extract"/><gadget name="scale"/>
<gadget name="finish"/></configuration>"""
SMALL = ScanProtocol(matrix=8, coils=2, noise=0.0, noise_scan=False, acs=4)


def joined(*messages) -> bytes:
    return b"".join(bytes(part) for message in messages for part in encode(message))


def sessions() -> dict[str, bytes]:
    scan = simulate(SMALL)
    header = Header(scan.header.encode())
    waves = simulate(ScanProtocol(matrix=8, coils=1, noise=0.0, noise_scan=False, waveforms=True, extra_readouts=True))
    dynamic = simulate(ScanProtocol(matrix=8, coils=1, slices=2, frames=2, acceleration=2, acs=4, noise_scan=False))
    noise = simulate(ScanProtocol(matrix=8, coils=2)).items[0]
    noise = ismrmrd.Acquisition(noise.getHead(), np.ascontiguousarray(noise.data[:, :32]))
    packed = b"".join(bytes(part) for item in scan.items for part in _encode_compressed(item, Compression(bits=8), 1.0))
    array = ImageArray(np.ones((1, 1, 1, 1, 1, 8, 8), np.complex64), [ismrmrd.ImageHeader()], (1, 1, 1), [""])
    buffer = ReconBuffer(
        np.ones((1, 1, 1, 2, 1, 8, 8), np.complex64),
        None,
        None,
        np.zeros((1, 1, 1, 1, 8), ACQUISITION_HEADER),
        bytes(56),
    )
    image = make_image(np.ones((1, 1, 4, 4), np.float32), ismrmrd.ImageHeader())
    parameters = json.dumps({"parameters": {"customconfig": "rss", "bundle": "rss"}})
    return {
        "plain": joined(ConfigFile("rss.xml"), header, *scan.items, Close()),
        "noise": joined(ConfigFile("sense.xml"), header, noise, *scan.items[:4], Close()),
        "own": joined(ConfigScript(OWN), header, *scan.items, Close()),
        "fire": joined(
            ConfigFile("network.xml"),
            Header(header.xml, terminated=True),
            Text(parameters, terminated=True),
            *scan.items,
        ),
        "compressed": joined(ConfigFile("rss.xml"), header) + packed + joined(Close()),
        "waveforms": joined(ConfigFile("default.xml"), Header(waves.header.encode()), *waves.items[:14], Close()),
        "dynamic": joined(
            ConfigFile("Generic_Cartesian_Grappa.xml"), Header(dynamic.header.encode()), *dynamic.items, Close()
        ),
        "bucket": joined(
            ConfigScript(OWN), header, AcquisitionBucket(data=scan.items, reference=scan.items[:2]), Close()
        ),
        "recon_data": joined(ConfigScript(OWN), header, ReconData([ReconBit(buffer, None)]), Close()),
        "image_array": joined(ConfigScript(ARRAYS), header, array, image, DicomFile(b"DICM", b"a", b""), Close()),
        "questions": joined(
            Query("isocenter::version", 1), ConfigFile("rss.xml"), Query("gadgetron::info", 2), Close()
        ),
        "noise_query": joined(ConfigScript(NOISE_QUERY.format(name="x").encode()), Close()),
    }


if __name__ == "__main__":
    for name, data in sessions().items():
        (FOLDER / f"{name}.stream").write_bytes(data)
        print(f"{name}: {len(data)} bytes")
