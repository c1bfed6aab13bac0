"""Scans that contradict their own headers: every image is right, or says what is not, or is not sent and the client knows why."""

import os
import re
from dataclasses import dataclass, replace
from functools import partial

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from isocenter.commands import replay as replay_command
from isocenter.simulate.errors import SimulationError
from isocenter.simulate.oddities import ODDITIES, make_odd
from oddities import INTERNAL, Answer, error, judge, make, marked, measured_images, refused, send, told

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
    rss("more pixels than measured", {"recon_matrix": (64, 72)}),
    rss("fewer pixels than measured", {"recon_matrix": (24, 48)}),
    rss("small image of a large field", {"recon_matrix": (24, 30), "recon_fov": (120, 150)}),
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

    def nothing(*_given):
        """Show no progress."""

    try:
        result = replay_command.replay(
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


EXAMPLES = int(os.environ.get("ISOCENTER_EXAMPLES", "0"))
"""How many composed scans a long run tries."""

PLAIN_KEYS = {"Bundle", "BundleVersion", "Network", "Runtime", "Device"}
"""What images say of themselves in any case."""

COUNTERS = ["kspace_encoding_step_1", "kspace_encoding_step_2", "average", "slice", "contrast", "repetition", "set"]

protocols = st.fixed_dictionaries(
    {
        "matrix": st.sampled_from([16, 21, 24]),
        "coils": st.sampled_from([3, 4]),
        "slices": st.sampled_from([1, 1, 1, 2]),
        "oversampling": st.sampled_from([1, 2]),
        "acceleration": st.sampled_from([1, 1, 2]),
        "acs": st.just(10),
        "calibration": st.sampled_from(["embedded", "separate"]),
        "partial_fourier": st.sampled_from([1.0, 1.0, 0.75]),
        "phase_oversampling": st.sampled_from([0.75, 1.0, 1.0, 1.25]),
        "recon_matrix": st.sampled_from([(0, 0), (0, 0), (32, 25)]),
        "recon_fov": st.sampled_from([(0.0, 0.0), (0.0, 0.0), (180.0, 300.0)]),
        "orientation": st.sampled_from(["transverse", "oblique", "flipped"]),
        "frames": st.sampled_from([1, 1, 1, 2]),
        "frame_counter": st.sampled_from(["phase", "repetition"]),
        "contrasts": st.sampled_from([1, 1, 1, 2]),
        "averages": st.sampled_from([1, 1, 2]),
        "phantom": st.sampled_from(["brain", "heart"]),
    }
)

chosen = st.one_of(
    st.builds("limits-missing:counter={}".format, st.sampled_from([*COUNTERS, "all"])),
    st.builds("limits-zero:counter={}".format, st.sampled_from(COUNTERS)),
    st.builds("announced-more:counter={},extra={}".format, st.sampled_from(COUNTERS[2:]), st.integers(1, 3)),
    st.builds("stated-centre:value={}".format, st.integers(-1, 12)),
    st.builds("lines-lost:count={}".format, st.integers(1, 8)),
    st.builds("broken-readout:value={}".format, st.sampled_from(["nan", "inf"])),
    st.builds("broken-noise:value={}".format, st.sampled_from(["nan", "inf"])),
    st.builds("stray-readout:channels={},samples={},place={}".format, *[st.integers(0, 2)] * 2, st.integers(-1, 20)),
    st.builds("empty-readout:instead={},place={}".format, st.integers(0, 1), st.integers(0, 20)),
    st.builds("line-order:kind={}".format, st.sampled_from(["random", "reversed", "centric"])),
    st.builds("segments:count={}".format, st.integers(2, 5)),
    st.builds("passes:count={}".format, st.integers(2, 5)),
    st.builds(
        "flagged:flag={},every={}".format,
        st.sampled_from(["surfacecoilcorrectionscan_data", "phasecorr_data", "navigation_data", "dummyscan_data"]),
        st.integers(1, 6),
    ),
)

requests = st.booleans().flatmap(lambda default: st.sampled_from(sorted(ODDITIES)) if default else chosen)


def compose(protocol: dict, wanted: list[str], seed: int):
    """Apply the oddities that a scan has room for; return it with their names."""
    random, scan, done = np.random.default_rng(seed), make(protocol), []
    for request in wanted:
        try:
            scan = make_odd(scan, request, random)
            done.append(request)
        except SimulationError:
            continue
    return scan, done


def notes(image) -> set[str]:
    """What an image says of itself that not every image says."""
    return set(re.findall("<name>Isocenter([^<]*)</name>", image.attribute_string)) - PLAIN_KEYS


def untold(answer: Answer, scan, limit: float) -> list[str]:
    """What is wrong with an answer and was not said."""
    wrong = ["a message shows an internal error"] if INTERNAL.search(answer.said) else []
    spoken = told(answer, "WARNING|ERROR")
    free = list(answer.images)
    for true in scan.images:
        fits = [image for image in free if all(getattr(image, k) == v for k, v in true.counters.items())]
        if not fits:
            wrong += [] if spoken else [f"image {true.counters} is missing without a word"]
            continue
        best = min(fits, key=lambda image: error(image, true.data))
        free.remove(best)
        if (value := error(best, true.data)) > limit and not (spoken and notes(best)):
            wrong.append(f"image {true.counters} has an error of {value:.3f} instead of {limit:.3f} without a word")
    wrong += [
        f"image {image.image_index} is not of the scan, and does not say so"
        for image in free
        if not (spoken and notes(image))
    ]
    return wrong


@pytest.mark.timeout(3600)
def test_oddities_together_make_right_images_or_are_told(service, tmp_path_factory):
    """The error is that of the same scan without the oddities, within a margin for what they take away."""

    @settings(
        max_examples=EXAMPLES or 12,
        derandomize=not EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        protocol=protocols,
        wanted=st.lists(requests, min_size=1, max_size=4),
        pipeline=st.sampled_from(["rss.xml", "sense.xml"]),
        seed=st.integers(0, 10**6),
    )
    def run(protocol, wanted, pipeline, seed):
        pipeline = "sense.xml" if protocol["acceleration"] > 1 else pipeline
        scan, done = compose(protocol, wanted, seed)
        plain = make(protocol, [request for request in done if request == "second-encoding"])
        control = send(service, plain, pipeline)
        note(f"{pipeline}, {done}, {protocol}")
        if scan.layout == plain.layout:
            answer = send(service, scan, pipeline)
        else:
            answer = replay_file(service, scan, tmp_path_factory.mktemp("odd"), pipeline)
        note(answer.said)
        errors = [
            min(
                (error(image, true.data) for image in control.images if image.slice == true.counters["slice"]),
                default=1,
            )
            for true in plain.images
        ]
        assert not untold(answer, scan, 1.5 * max(errors) + 0.03)

    run()
