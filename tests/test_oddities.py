"""Scans that contradict their own headers: every image is right, or says what is not, or is not sent and the client knows why."""

from dataclasses import dataclass, replace
from functools import partial

import h5py
import pytest
from isocenter.commands import replay as replay_command
from oddities import INTERNAL, Answer, judge, make, marked, measured_images, refused, send, told

ACCELERATED = {"acceleration": 2, "coils": 5}
REFERENCED = {**ACCELERATED, "calibration": "separate"}
PARTIAL = {"partial_fourier": 0.75, "coils": 5}
SMALL = {"matrix": 32}


@dataclass(frozen=True)
class Case:
    """A scan, and what is right.

    Attributes
    ----------
    protocol, oddities, pipeline
        The scan, and what reconstructs it.
    max_error
        Of every image.
    said
        What must be said to the client and on an image.
    refusal
        A reason for which no image, or one that says so, is right as well.
    measured
        The images are those of the lines that came; none is right as well, if the client is told.
    averages
        Images of each of so many averages.
    only
        Counters of the images that are judged; there may be others.
    """

    name: str
    protocol: dict
    oddities: tuple[str, ...] = ()
    pipeline: str = "rss.xml"
    max_error: float = 0.01
    said: str = ""
    refusal: str = ""
    measured: bool = False
    averages: int = 1
    only: dict | None = None


rss = partial(Case, pipeline="rss.xml")
sense = partial(Case, pipeline="sense.xml", max_error=0.08)
default = partial(Case, pipeline="default.xml")
HEARTS = {"phantom": "heart", "frame_counter": "repetition", "coils": 3}

CASES = [
    rss("odd matrix", {"matrix": 47, "oversampling": 1}),
    rss("odd matrix with oversampling", {"matrix": 47}),
    rss("odd matrix, even lines", {"matrix": 31, "phase_oversampling": 32 / 31}),
    rss("wide image of few lines", {"matrix": 64, "phase_oversampling": 0.75, "phantom": "heart"}, max_error=0.03),
    rss("image that is not square", {"phase_oversampling": 0.75, "recon_matrix": (48, 36), "recon_fov": (240, 180)}),
    rss("more pixels than measured", {"recon_matrix": (64, 72)}, max_error=0.02),
    rss("fewer pixels than measured", {"recon_matrix": (24, 48)}, max_error=0.02),
    rss("small image of a large field", {"recon_matrix": (24, 30), "recon_fov": (120, 150)}, max_error=0.02),
    rss("oversampled slab", {"matrix": 24, "partitions": 8, "partition_oversampling": 1.5, "oversampling": 1}),
    rss("last digit of a field of view", {}, ("fov-last-digit",)),
    rss("last digit, too small", {}, ("fov-last-digit:excess=-0.0003",)),
    sense("reference of half the resolution", REFERENCED, ("reference-half-resolution",)),
    sense(
        "calibration in the first echo alone",
        {"contrasts": 2, "acceleration": 2, "coils": 3, "phantom": "heart"},
        ("reference-in-first-contrast",),
        max_error=0.04,
    ),
    rss("centre flagged as calibration", {}, ("calibration-flag-on-centre",)),
    rss("centre flagged as both calibrations", {}, ("calibration-flag-on-centre:both=1",)),
    rss("lines lost", {}, ("lines-lost",), max_error=0.02, said="incomplete|missing", measured=True),
    default(
        "undersampled where nothing unfolds",
        {**ACCELERATED, "calibration": "none"},
        max_error=0.02,
        said="undersampl|accelerat|alias|missing|incomplete",
        measured=True,
    ),
    rss("spokes that are said to be lines", {}, ("radial-trajectory",), max_error=0.2, refusal="traject"),
    sense("simultaneous slices", {"slices": 2}, ("simultaneous-slices",), refusal="multiband|simultaneous|sms"),
    rss("2-D with a middle partition", {}, ("partition-centre",)),
    rss("limits that are all zero", {}, ("limits-zero",)),
    rss("no limits", {}, ("limits-missing:counter=all",)),
    sense("partial Fourier, stated middle", PARTIAL, ("stated-centre",), max_error=0.12),
    sense("the same accelerated", {**PARTIAL, **ACCELERATED}, ("stated-centre",), max_error=0.15),
    rss("last flag in the first pass", {"matrix": 46}, ("passes",)),
    sense("last flag in every segment", {}, ("segments",), max_error=0.04),
    rss("last flag in every partition", {"matrix": 24, "partitions": 6}, ("last-in-each-partition",)),
    rss("interleaved slices", {**SMALL, "slices": 3, "coils": 2}, ("slices-interleaved",)),
    rss("lines in random order without flags", SMALL, ("line-order", "no-flags")),
    rss("repeated lines", {**SMALL, "coils": 2}, ("lines-repeated", "no-flags")),
    rss("repetitions in the inner loop", {**HEARTS, **SMALL, "frames": 2}, ("dynamics-interleaved", "no-flags")),
    rss("one channel comes first", {}, ("one-channel-first",)),
    default("a short readout comes first", {}, ("short-readout-first",), max_error=0.02),
    rss("an empty readout too", {}, ("empty-readout",)),
    default("averages unannounced", {**SMALL, "coils": 2, "averages": 3}, ("limits-missing",), averages=3),
    default("fewer averages than announced", {**SMALL, "coils": 2, "averages": 3}, ("announced-more",), averages=3),
    rss("noise that is no number", {}, ("broken-noise",), max_error=0.03, said="noise"),
    rss(
        "infinite noise of a scan with noise",
        {"noise_scan": True, "noise": 0.3},
        ("broken-noise:value=inf",),
        said="noise",
        max_error=0.03,
    ),
    sense(
        "elliptical scanning",
        {"matrix": 24, "partitions": 10, "oversampling": 1, "coils": 4},
        ("elliptical-scanning",),
    ),
    sense(
        "the first slice has no reference",
        {**SMALL, **REFERENCED, "coils": 6, "slices": 2, "acs": 12},
        ("slice-without-reference",),
        max_error=0.1,
        only={"slice": 0},
    ),
    sense(
        "interleaved calibration",
        {**HEARTS, "matrix": 40, "frames": 4, "acceleration": 2, "calibration": "interleaved"},
        max_error=0.1,
    ),
    sense("reference in a second encoding", REFERENCED, ("reference-in-second-encoding",)),
    sense("reference in an encoding of its own", REFERENCED, ("reference-in-second-encoding:own_matrix=1",)),
    sense("reference numbered from zero", REFERENCED, ("reference-numbered-from-zero",)),
    sense("reference after the image", REFERENCED, ("reference-after-image",)),
    sense("reference of fewer channels", REFERENCED, ("reference-other-channels",), refusal="channel"),
    rss("one acceleration factor", SMALL, ("acceleration-one-factor",)),
    rss("an ampersand", SMALL, ("bare-ampersand",)),
    rss("limits as floats", SMALL, ("limits-as-float",)),
    rss("matrix as floats", SMALL, ("matrix-as-float",)),
    rss("no patient position", SMALL, ("element-missing",)),
    rss("no measurement information", SMALL, ("element-missing:name=measurementInformation",)),
    rss("no system information", SMALL, ("element-missing:name=acquisitionSystemInformation",)),
    rss("slice thickness zero", SMALL, ("slice-fov-zero",)),
    rss("capital", SMALL, ("trajectory-capital",)),
    rss("UTF-16 declared", SMALL, ("declared-encoding",)),
    rss("Latin-1", SMALL, ("latin-1",)),
    rss("spaces", SMALL, ("spaces-around-values",)),
    rss("two encodings", {"coils": 2}, ("second-encoding",)),
    rss("every line flagged", {}, ("flagged",), refusal="surface|flag"),
    rss("slices as partitions", {**SMALL, "slices": 3, "coils": 2}, ("slices-as-partitions",)),
    rss(
        "numbers without limits",
        {"matrix": 24, "slices": 3, "contrasts": 2, "coils": 2},
        ("limits-missing:counter=slice", "limits-missing:counter=contrast"),
    ),
    sense("oversampling removed from the image alone", REFERENCED, ("oversampling-removed:only=image",)),
    rss("oversampling removed", {}, ("oversampling-removed",)),
]

FILES = [
    ("big-endian",),
    ("header-scalar",),
    ("header-fixed-length",),
    ("header-fixed-length:scalar=1",),
    ("members-reversed",),
    ("no-trajectory-member",),
    ("stream",),
    ("other-group",),
    ("big-endian", "members-reversed", "no-trajectory-member", "header-scalar", "bare-ampersand"),
]


def wrong_with(case: Case, scan, answer: Answer) -> list[str]:
    if case.refusal and refused(answer, case.refusal):
        return []
    if case.measured and not answer.images and told(answer, case.said):
        return []
    images = measured_images(scan) if case.measured else scan.images
    images = [image for image in images if (case.only or {}).items() <= image.counters.items()]
    images = [
        replace(image, counters={**image.counters, "average": average})
        for image in images
        for average in range(case.averages)
    ]
    wrong = judge(answer, images, case.max_error, count=-1 if case.only else None)
    if case.said and not told(answer, case.said):
        wrong.append(f"the client is not told {case.said}")
    if case.said and not any(marked(image, case.said) for image in answer.images):
        wrong.append(f"no image says {case.said}")
    return wrong


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
def test_an_odd_scan_makes_the_right_images_or_says_why_not(case, service):
    scan = make(case.protocol, case.oddities)
    answer = send(service, scan, case.pipeline)
    assert not wrong_with(case, scan, answer), answer.said


def replay_file(service, scan, folder, pipeline="rss.xml") -> Answer:
    """Replay a scan's file as the command does; the images are those of the file that it writes."""
    path, out = folder / "scan.h5", folder / "out.h5"
    scan.save(path)
    options = replay_command.Options(
        path, out, pipeline, port=service.port, in_group=scan.layout.group, out_group="images"
    )
    texts: list[str] = []
    nothing = lambda *_: None  # noqa: E731
    try:
        result = replay_command.run(
            options, on_start=nothing, on_acquisition=nothing, on_image=nothing, on_text=texts.append
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, the user reads it
        return Answer([], "\n".join([*texts, f"{type(error).__name__}: {error}"]))
    return Answer(result.images, "\n".join(texts))


@pytest.mark.parametrize("oddities", FILES, ids="+".join)
def test_a_file_is_read_however_it_is_written(oddities, service, tmp_path):
    scan = make(SMALL, oddities)
    answer = replay_file(service, scan, tmp_path)
    assert not judge(answer, scan.images, 0.01), answer.said


def test_images_of_two_sizes_are_all_in_the_file(service, tmp_path):
    scan = make({"coils": 2}, ("second-encoding",))
    answer = replay_file(service, scan, tmp_path)
    assert not judge(answer, scan.images, 0.01), answer.said
    with h5py.File(tmp_path / "out.h5") as file:
        sizes = sorted(image.shape[-2:] for series in file["images"].values() for image in series["data"][()])
    assert sizes == [(32, 32), (48, 48)]


def test_samples_that_the_heads_deny_are_a_reason_that_a_user_understands(service, tmp_path):
    answer = replay_file(service, make(SMALL, ("sizes-zero",)), tmp_path)
    assert not answer.images
    assert told(answer, "samples|channels")
    assert not INTERNAL.search(answer.said)
