"""How fast acquisitions are taken off a socket and into the k-space buffer.

A process sends encoded acquisitions over the loopback; this one receives them in three ways, in turns:

bare
    ``recv_into`` one fixed buffer, nothing else: the limit of the socket.
isocenter
    Decoded and accumulated into blocks of k-space, as a session does it.
gadgetron
    Read by the ``gadgetron`` package's ``Connection`` and copied into an array.

``placed`` is a second limit: ``recv_into`` memory the size of a block, the least that buffering a scan can cost.
Run with ``python benchmarks/ingest.py [--megabytes N] [--rounds 5]``.
"""

import argparse
import multiprocessing
import socket
import statistics
import struct
import time
from collections.abc import Callable

import gadgetron.external.connection as gadgetron_connection
import ismrmrd
import numpy as np
from isocenter.gadgets import load
from isocenter.gadgets.kspace import Kspace
from isocenter.gadgets.scan import Scan
from isocenter.service.memory import keep_freed_memory
from isocenter.service.transport import Receiver
from isocenter.simulate.header import header_xml
from isocenter.simulate.protocol import ScanProtocol
from isocenter.wire import ConfigScript, Header, encode
from isocenter.wire.items import Acquisition

LINES = 256
SHAPES = ((16, 512), (64, 1024))


def header(coils: int, samples: int) -> bytes:
    text = header_xml(ScanProtocol(matrix=samples, coils=coils, oversampling=1, frame_counter="repetition"))
    text = text.replace(f"<y>{samples}</y>", f"<y>{LINES}</y>")
    return text.replace(
        f"<maximum>{samples - 1}</maximum><center>{samples // 2}", f"<maximum>{LINES - 1}</maximum><center>{LINES // 2}"
    ).encode()


def repetition(coils: int, samples: int) -> bytes:
    """Return the bytes of one complete image's acquisitions."""
    data = np.ones((coils, samples), np.complex64)
    parts = []
    for line in range(LINES):
        acquisition = Acquisition.from_array(data, center_sample=samples // 2)
        acquisition.idx.kspace_encode_step_1 = line
        if line == LINES - 1:
            acquisition.set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
        parts += [bytes(part) for part in encode(acquisition)]
    return b"".join(parts)


def send(port: int, opening: bytes, block: bytes, count: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(opening)
        for _ in range(count):
            sock.sendall(block)
        sock.sendall(struct.pack("<H", 4))


def bare(sock: socket.socket, _coils: int, _samples: int) -> int:
    memory, total = memoryview(bytearray(2**20)), 0
    while count := sock.recv_into(memory):
        total += count
    return total


def placed(sock: socket.socket, coils: int, samples: int) -> int:
    memory = memoryview(bytearray(LINES * (coils * samples * 8 + 342)))
    position = total = 0
    while count := sock.recv_into(memory[position : position + 2**20]):
        total += count
        position = (position + count) % len(memory)
    return total


def isocenter(sock: socket.socket, coils: int, samples: int) -> int:
    scan = Scan(header(coils, samples))
    received = Receiver(sock)
    items = (message for message in received if isinstance(message, Acquisition))
    blocks = sum(isinstance(item, Kspace) for item in load("accumulate")(items, scan))
    assert blocks * LINES * (coils * samples * 8 + 342) <= received.bytes_received
    return received.bytes_received


def gadgetron(sock: socket.socket, coils: int, samples: int) -> int:
    buffer = np.zeros((coils, LINES, samples), np.complex64)
    count = 0
    for item in gadgetron_connection.Connection(sock):
        buffer[:, item.idx.kspace_encode_step_1] = item.data
        count += 1
    return count * (coils * samples * 8 + 342)


def throughput(
    receive: Callable[[socket.socket, int, int], int], coils: int, samples: int, block: bytes, count: int
) -> float:
    """Bytes a second."""
    opening = b"".join(
        bytes(part) for message in (ConfigScript(b"<a/>"), Header(header(coils, samples))) for part in encode(message)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = (listener.getsockname()[1], opening if receive is gadgetron else b"", block, count)
        process = multiprocessing.Process(target=send, args=arguments)
        process.start()
        sock, _ = listener.accept()
    with sock:
        start = time.perf_counter()
        total = receive(sock, coils, samples)
        seconds = time.perf_counter() - start
    process.join()
    return total / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1500, help="sent in each turn")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()
    ways = (bare, placed, isocenter, gadgetron)
    figures: dict[str, float] = {}
    for coils, samples in SHAPES:
        block = repetition(coils, samples)
        count = max(1, arguments.megabytes * 10**6 // len(block))
        rates: dict[str, list[float]] = {way.__name__: [] for way in ways}
        for _ in range(arguments.rounds):
            for way in ways:
                rates[way.__name__].append(throughput(way, coils, samples, block, count))
        name = f"{coils}x{samples}"
        best = {way: statistics.median(values) for way, values in rates.items()}
        print(f"{name}: {count * LINES} acquisitions a turn, median of {arguments.rounds} turns")
        for way, rate in best.items():
            print(f"  {way:<10} {rate / 1e6:8.0f} MB/s {rate / (len(block) / LINES):10.0f} acquisitions/s")
        for other in ("bare", "placed", "gadgetron"):
            ratios = [ours / theirs for ours, theirs in zip(rates["isocenter"], rates[other], strict=True)]
            figures[f"ingest_{name}_over_{other}"] = statistics.median(ratios)
        figures[f"ingest_{name}_mb_per_s"] = best["isocenter"] / 1e6
    print()
    for key, value in figures.items():
        print(f"figure {key} {value:.3f}")


if __name__ == "__main__":
    main()
