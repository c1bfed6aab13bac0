"""Sends odd scans through a service and judges what comes back."""

import re
from dataclasses import dataclass, field

import ismrmrd
import numpy as np
from isocenter.commands.client import Client, ClientError, replay
from isocenter.simulate.oddities import make_odd
from isocenter.simulate.scan import ScanProtocol, SimulatedScan, TrueImage, simulate, true_image
from isocenter.wire import ConfigFile

INTERNAL = re.compile(
    r"Traceback|(Runtime|Value|Type|Index|Key|Attribute|Assertion|UnicodeDecode)Error|__init__|MKL|size of tensor"
    r"|invalid literal|reshape|slicing argument|field of name|NoneType|could not convert|broadcast"
)
"""What only a programmer understands."""


@dataclass
class Answer:
    """What a service answered: images, and all that it said."""

    images: list = field(default_factory=list)
    said: str = ""


def make(protocol: dict, oddities=(), seed=3) -> SimulatedScan:
    """Simulate a small scan without noise, where the protocol does not ask for some, and make it odd."""
    random = np.random.default_rng(seed)
    scan = simulate(
        ScanProtocol(**{"coils": 4, "matrix": 48, "noise": 0.0, "noise_scan": False, "acs": 16, **protocol})
    )
    for request in oddities:
        scan = make_odd(scan, request, random)
    return scan


def send(service, scan: SimulatedScan, pipeline: str) -> Answer:
    """Send a scan to a service, readout by readout."""
    client = Client(service.connect())
    try:
        replay(client, scan.header.encode(scan.header_encoding), scan.items, ConfigFile(pipeline))
        failure = ""
    except ClientError as error:
        failure = str(error)
    return Answer(client.result.images, "\n".join([*client.result.texts, failure]))


def error(image, truth: np.ndarray) -> float:
    """Scale-free normalised root mean square error of an image's magnitude."""
    found, wanted = magnitude(image), truth.astype(float).squeeze()
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return np.inf
    scale = (found * wanted).sum() / max((found**2).sum(), 1e-30)
    return float(np.linalg.norm(scale * found - wanted) / np.linalg.norm(wanted))


def magnitude(image) -> np.ndarray:
    return np.abs(np.asarray(image.data)).astype(float).squeeze()


def told(answer: Answer, pattern: str) -> bool:
    """Whether something was said to the client."""
    return re.search(pattern, answer.said, re.IGNORECASE) is not None


def marked(image, pattern: str) -> bool:
    """Whether an image says something of itself."""
    return re.search(pattern, image.attribute_string, re.IGNORECASE) is not None


def judge(answer: Answer, images: list[TrueImage], max_error: float, *, count: int | None = None) -> list[str]:
    """What is wrong with an answer: images that are missing, too many, wrong, of another scale, or numbered alike."""
    wrong = ["a message shows an internal error"] if INTERNAL.search(answer.said) else []
    wanted = len(images) if count is None else count
    if wanted >= 0 and len(answer.images) != wanted:
        wrong.append(f"{len(answer.images)} images instead of {wanted}")
    free, scales = list(answer.images), {}
    for true in images:
        fits = [image for image in free if all(getattr(image, k) == v for k, v in true.counters.items())]
        if not fits:
            wrong.append(f"no image {true.counters}")
            continue
        best = min(fits, key=lambda image: error(image, true.data))
        free.remove(best)
        if (value := error(best, true.data)) > max_error:
            wrong.append(f"image {true.counters} has an error of {value:.3f}")
        else:
            scale = (magnitude(best) * true.data.squeeze()).sum() / (true.data.astype(float) ** 2).sum()
            scales.setdefault(true.data.shape, []).append(scale)
    wrong += ["images of one size differ in scale" for found in scales.values() if max(found) > 1.05 * min(found)]
    numbers = [(image.image_series_index, image.image_index) for image in answer.images]
    if len(set(numbers)) < len(numbers):
        wrong.append(f"image numbers repeat: {numbers}")
    return wrong


def refused(answer: Answer, pattern: str) -> bool:
    """Whether there is a reason for what is missing or wrong, said to the client and on every image that came."""
    return (
        told(answer, pattern)
        and not INTERNAL.search(answer.said)
        and all(marked(image, pattern) for image in answer.images)
    )


def measured_images(scan: SimulatedScan) -> list[TrueImage]:
    """Images of the lines that came, with zeros for the others, by direct Fourier sums."""
    protocol, blocks = scan.protocol, {}
    size = (protocol.coils, protocol.encoded_partitions, protocol.lines, protocol.samples)
    for item in scan.items:
        if isinstance(item, ismrmrd.Acquisition):
            counters = {name: getattr(item.idx, name) for name in ("repetition", "phase", "set", "contrast", "slice")}
            kspace = blocks.setdefault(tuple(counters.items()), np.zeros(size, np.complex64))
            row = item.idx.kspace_encode_step_1 + protocol.first_line
            kspace[:, item.idx.kspace_encode_step_2, row] = item.data
    return [TrueImage(dict(counters), true_image(protocol, kspace)) for counters, kspace in blocks.items()]
