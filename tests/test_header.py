import re
import warnings

import ismrmrd.xsd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isocenter.simulate.header import header_xml
from isocenter.simulate.protocol import ScanProtocol
from isocenter.wire.errors import HeaderError
from isocenter.wire.header import NO_HEADER, Encoding, Limit, parse_encodings, parse_header, write_header
from isocenter.wire.markup import Notes

HEADER = header_xml(ScanProtocol(matrix=64, acceleration=2, partial_fourier=0.75))
PYTHON_WORDS = re.compile(r"__|Error|invalid literal|NoneType|argument|could not convert|codec|object|str\b")


def read(text):
    """The first encoding, the header and the notes."""
    notes = Notes()
    header = parse_header(text, notes)
    return parse_encodings(header, notes)[0], header, notes


def changed(*changes, header=HEADER):
    for before, after in changes:
        assert before in header
        header = header.replace(before, after)
    return header


def without(name, header=HEADER):
    shorter = re.sub(f"<{name}>.*?</{name}>", "", header, count=1)
    assert shorter != header
    return shorter


EXPECTED = parse_encodings(parse_header(HEADER))[0]


def test_numbers_of_the_encoding():
    (encoding,) = parse_encodings(parse_header(HEADER))
    assert encoding.encoded_matrix == (128, 64, 1)
    assert encoding.recon_matrix == (64, 64, 1)
    assert encoding.encoded_fov == (480.0, 240.0, 5.0)
    assert encoding.recon_fov == (240.0, 240.0, 5.0)
    assert encoding.cropped_readout == 64
    assert encoding.acceleration == (2, 1)
    assert encoding.calibration_mode == "embedded"
    assert encoding.limits["kspace_encoding_step_1"] == Limit(0, 47, 16)
    assert encoding.multiband == 1


@pytest.mark.parametrize("text", [HEADER, NO_HEADER, HEADER + "\0\0"])
def test_a_header_without_faults_has_no_notes(text):
    _, _, notes = read(text)
    assert not notes.doubts
    assert [note for note in notes.accepted if "experimentalConditions" not in note] == []


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (changed((' xmlns="http://www.ismrm.org/ISMRMRD"', "")), ""),
        (changed((' xmlns="http://www.ismrm.org/ISMRMRD"', ' xmlns="http://example.org/other"')), ""),
        (re.sub(r"(</?)(?=\w)", r"\1mrd:", changed((' xmlns="http', ' xmlns:mrd="http'))), ""),
        (re.sub(r"(</?)(?=\w)", r"\1mrd:", changed((' xmlns="http://www.ismrm.org/ISMRMRD"', ""))), ""),
        (changed(("<ismrmrdHeader ", '<ismrmrdHeader xsi:schemaLocation="a b" ')), ""),
        (changed(("<ismrmrdHeader", "<ISMRMRDHEADER"), ("</ismrmrdHeader", "</ISMRMRDHEADER")), ""),
        (changed(("matrixSize>", "MatrixSize>")), "matrixSize is written 'MatrixSize'"),
        (changed(("<encoding>", "<vendorThing><a>1</a></vendorThing><encoding>")), ""),
        (without("measurementInformation"), ""),
        (without("acquisitionSystemInformation"), ""),
        (without("experimentalConditions"), "experimentalConditions is missing"),
        (without("sequenceParameters"), ""),
        (without("patientPosition"), "measurementInformation.patientPosition is missing"),
        (without("trajectory"), "encoding[0].trajectory is missing"),
        (changed(("<x>128</x>", "<x>128.0</x>")), "encodedSpace.matrixSize.x '128.0' is taken as 128"),
        (changed(("<x>128</x>", "<x>127.9996</x>")), "'127.9996' is taken as 128"),
        (changed(("<x>128</x>", "<x>1.28e2</x>")), "'1.28e2' is taken as 128"),
        (changed(("<x>128</x>", "<x> 128 </x>")), ""),
        (changed(("<x>128</x>", "<x>128,0</x>")), "'128,0' is taken as 128"),
        (changed(("<x>480.0</x>", "<x>480,0</x>")), "'480,0' is taken as 480.0"),
        (changed(("<x>480.0</x>", "<x>480 mm</x>")), "'480 mm' is taken as 480.0"),
        (changed(("<z>1</z>", "<z>0.9999</z>")), "'0.9999' is taken as 1"),
        (changed(("<z>1</z>", "<z>0</z>")), "matrixSize.z is 0: taken as 1"),
        (changed(("<z>1</z>", "")), "matrixSize.z is missing: taken as 1"),
        (changed(("<center>16</center>", "<center>16.0</center>")), "step_1.center '16.0' is taken as 16"),
        (changed(("<center>16</center>", "<center>15.5</center>")), "step_1.center '15.5' is taken as 16"),
        (changed(("<center>16</center>", "<center>16</center><center>3</center>")), "center is there more than once"),
        (changed(("cartesian<", "CARTESIAN<")), "trajectory 'CARTESIAN' is taken as cartesian"),
        (changed(("embedded<", "Embedded<")), "calibrationMode 'Embedded' is taken as embedded"),
        (changed(("_1>2</", "_1>2.0</")), "'2.0' is taken as 2"),
        (changed(("_1>2</", "_1>1.5</")), "'1.5' is taken as 2"),
        (changed(("_2>1</", "_2>0</")), "accelerationFactor.kspace_encoding_step_2 is 0"),
        (changed(("<kspace_encoding_step_2>1</kspace_encoding_step_2>", "")), "kspace_encoding_step_2 is missing"),
        (re.sub("<accelerationFactor>.*</accelerationFactor>", "<accelerationFactor>2</accelerationFactor>", HEADER), ""),
        (changed(("<receiverChannels>8<", "<receiverChannels>eight<")), "receiverChannels cannot be read"),
        (changed(("123200000", "123.2e6")), "H1resonanceFrequency_Hz is taken as what is meant"),
        (changed(("brain<", "T1 & T2 &amp; a < b &nbsp; &unknown; &#0; \x01<")), "not escaped"),
        (changed(("brain<", "<![CDATA[T1 & T2]]><!-- & -->&#228;<")), ""),
    ],
)  # fmt: skip
def test_what_scanners_and_converters_write_is_accepted_and_noted(text, note):
    encoding, _, notes = read(text)
    assert encoding == EXPECTED
    assert not notes.doubts
    said = "; ".join(notes.accepted)
    assert note in said
    assert bool(said) >= bool(note)


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (HEADER.encode() + b"\0\0\0", ""),
        (b"\xef\xbb\xbf" + HEADER.encode(), ""),
        (HEADER.encode("utf-16"), ""),
        (HEADER.encode("utf-16-le"), "without a byte order mark"),
        (HEADER.encode("utf-16-le").rstrip(b"\0"), "without a byte order mark"),
        (HEADER.encode("utf-16").rstrip(b"\0"), ""),
        (HEADER.encode("utf-32").rstrip(b"\0"), ""),
        (HEADER.encode("utf-16-be") + b"\0\0", "without a byte order mark"),
        (HEADER.replace("UTF-8", "utf-16").encode(), "declares the encoding 'utf-16' and is UTF-8"),
        (HEADER.replace("brain", "Kopf schräg").encode("latin-1"), "read as cp1252"),
        (HEADER.replace("brain", "Kopf schräg").replace("UTF-8", "ISO-8859-1").encode("latin-1"), ""),
        (HEADER.replace("brain", "Kopf schräg").replace("UTF-8", "ISO-8859-1").encode(), "is UTF-8"),
        (HEADER.replace("brain", "Kopf schräg").replace("UTF-8", "klingon").encode("latin-1"), "read as cp1252"),
        (HEADER.replace("brain", "Kopf schräg").encode("latin-1").replace(b"\xe4", b"\xe4\x81"), "read as latin-1"),
        (b"\r\n  " + HEADER.encode(), ""),
        (b"\x12\x00\x00junk " + HEADER.encode(), "before the header's XML"),
        (HEADER.encode() + b"\n%% end", "after the header's XML"),
    ],
)
def test_text_is_decoded_by_what_it_is(data, note):
    encoding, header, notes = read(data)
    assert encoding == EXPECTED
    assert note in "; ".join(notes.accepted)
    assert bool(notes.accepted) == bool(note)
    if "schräg" in data.decode("latin-1") or b"schr\xe4g" in data:
        assert header.measurementInformation.protocolName == "Kopf schräg"


def test_text_that_is_not_escaped_is_read_as_it_was_meant():
    _, header, _ = read(changed(("brain<", "T1 & T2 &lt; a < b &nbsp;&unknown;&#65;<")))
    assert header.measurementInformation.protocolName == "T1 & T2 < a < b \xa0&unknown;A"


def test_values_of_patients_are_not_in_notes():
    subject = "<subjectInformation><patientBirthdate>31st of May</patientBirthdate></subjectInformation>"
    _, header, notes = read(changed(("<measurementInformation>", subject + "<measurementInformation>")))
    assert header.subjectInformation.patientBirthdate is None
    assert notes.accepted == ["subjectInformation.patientBirthdate cannot be read and is left out"]


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ([("<z>5.0</z>", "<z>0</z>")], ((128, 64, 1), (64, 64, 1), (480.0, 240.0, 1.0), (240.0, 240.0, 1.0))),
        ([("<z>5.0</z>", "")], ((128, 64, 1), (64, 64, 1), (480.0, 240.0, 1.0), (240.0, 240.0, 1.0))),
        ([("reconSpace>", "noSpace>")], ((128, 64, 1), (128, 64, 1), (480.0, 240.0, 5.0), (480.0, 240.0, 5.0))),
        ([("<x>64</x>", "<x>0</x>")], ((128, 64, 1), (64, 64, 1), (480.0, 240.0, 5.0), (240.0, 240.0, 5.0))),
    ],
)
def test_sizes_that_follow_from_others(changes, sizes):
    encoding, _, notes = read(changed(*changes))
    assert (encoding.encoded_matrix, encoding.recon_matrix, encoding.encoded_fov, encoding.recon_fov) == sizes
    assert notes.accepted
    assert not notes.doubts


@pytest.mark.parametrize(
    ("change", "fov"),
    [
        (("<x>480.0</x>", "<x>0</x>"), (480.0, 240.0)),
        (("<x>480.0</x>", "<x>NaN</x>"), (480.0, 240.0)),
        (("<x>240.0</x>", "<x>-1</x>"), (480.0, 240.0)),
        (("<x>240.0</x>", ""), (480.0, 240.0)),
    ],
)
def test_a_field_of_view_that_is_assumed_is_doubtful(change, fov):
    """The pixel keeps its size where the readout is oversampled."""
    encoding, _, notes = read(changed(change))
    assert (encoding.encoded_fov[0], encoding.recon_fov[0]) == fov
    assert len(notes.doubts) == 1
    assert "fieldOfView_mm.x" in notes.doubts[0]


def test_the_thickness_of_a_volume_is_doubtful_where_it_is_missing():
    volume = header_xml(ScanProtocol(matrix=32, partitions=8, slice_thickness=2.0))
    encoding, _, notes = read(volume.replace("<z>16.0</z>", "<z>0</z>"))
    assert encoding.encoded_fov[2] == encoding.recon_fov[2] == 8.0
    assert len(notes.doubts) == 2


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (changed(("<center>16</center>", "")), Limit(0, 47, None)),
        (changed(("<center>16</center>", "<center>middle</center>")), Limit(0, 47, None)),
        (changed(("<minimum>0</minimum><maximum>47</maximum>", "")), Limit(0, 0, 16)),
        (changed(("<center>16</center>", "<center>-1</center>")), None),
        (changed(("<maximum>47</maximum><center>16</center>", "<maximum>0</maximum><center>0</center>")), Limit(0, 0, 0)),
        (without("kspace_encoding_step_1"), None),
        (without("encodingLimits"), None),
    ],
)  # fmt: skip
def test_limits_that_say_little(text, limit):
    encoding, _, _ = read(text)
    assert encoding.limits.get("kspace_encoding_step_1") == limit


def test_what_the_reconstruction_must_refuse_is_kept():
    encoding, header, notes = read(changed(("cartesian<", "Lissajous<"), ("embedded<", "guess<")))
    assert encoding.trajectory == "lissajous"
    assert encoding.calibration_mode == "other"
    assert header.encoding[0].trajectory == "Lissajous"
    assert any("'Lissajous' is not one of cartesian, epi, radial" in note for note in notes.accepted)


@pytest.mark.parametrize(
    "multiband",
    [
        "<multiband><spacing><dZ>12</dZ></spacing><deltaKz>0.5</deltaKz><multiband_factor>3</multiband_factor></multiband>",
        "<multiband><multibandFactor>3.0</multibandFactor></multiband>",
        "<multiband>3</multiband>",
        "",
    ],
)
def test_multiband(multiband):
    parameter = "<userParameterLong><name>MultiBandFactor</name><value>3</value></userParameterLong>"
    end = "" if multiband else f"<userParameters>{parameter}</userParameters>"
    text = changed(
        ("</parallelImaging>", multiband + "</parallelImaging>"), ("</ismrmrdHeader>", end + "</ismrmrdHeader>")
    )
    assert read(text)[0].multiband == 3


def test_interleaving_dimension():
    mode = "<interleavingDimension>Repetition</interleavingDimension></parallelImaging>"
    assert read(changed(("</parallelImaging>", mode)))[0].interleaving_dimension == "repetition"


@pytest.mark.parametrize(
    ("samples", "encoded", "recon", "expected"),
    [
        (96, 480.0001, 240.0, 48),
        (96, 479.9999, 240.0, 48),
        (512, 409.084808, 204.542404, 256),
        (256, 512.0, 254.0, 127),
        (128, 240.0, 300.0, 128),
        (64, 1000.0, 0.1, 1),
    ],
)
def test_cropped_readout_is_rounded_and_invents_no_samples(samples, encoded, recon, expected):
    matrix = (samples, 64, 1)
    assert Encoding(matrix, matrix, (encoded, 240.0, 5.0), (recon, 240.0, 5.0)).cropped_readout == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not readable XML"),
        ("<ismrmrdHeader", "not readable XML"),
        (HEADER[:700], "not readable XML"),
        ("<something/>", "root element is 'something'"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + HEADER.partition("?>")[2], "DOCTYPE"),
        ('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]>' + HEADER.partition("?>")[2], "DOCTYPE"),
        ('<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"/>', "no <encoding>"),
        (HEADER.replace("<x>128</x>", "<x>0</x>"), r"encoding\[0\]\.encodedSpace\.matrixSize\.x: it is 0; accepted: a whole"),
        (HEADER.replace("<x>128</x>", "<x>many</x>"), r"matrixSize\.x: it is no number; accepted: a whole number from 1 to"),
        (HEADER.replace("<x>128</x>", "<x>127.5</x>"), r"matrixSize\.x: it is 127\.5; accepted"),
        (HEADER.replace("<x>128</x>", "<x>-128</x>"), r"matrixSize\.x: it is -128; accepted"),
        (HEADER.replace("<x>128</x>", ""), r"encodedSpace\.matrixSize\.x: it is missing; accepted"),
        (HEADER.replace("<y>240.0</y>", "<y>0</y>"), r"fieldOfView_mm\.y: it is 0\.0, and .*accepted: a length above 0"),
        (HEADER.replace("encodedSpace>", "other>"), r"encodedSpace\.matrixSize\.x: it is missing"),
    ],
)  # fmt: skip
def test_other_headers_are_refused_with_field_value_and_what_is_accepted(text, complaint):
    with pytest.raises(HeaderError, match=complaint):
        parse_encodings(parse_header(text))


@pytest.mark.parametrize(
    "name",
    [
        "measurementInformation",
        "experimentalConditions",
        "encodingLimits",
        "trajectory",
        "patientPosition",
        "reconSpace",
    ],
)
def test_other_programs_get_a_header_that_strict_readers_take(name):
    text = write_header(parse_header(without(name)))
    with warnings.catch_warnings(action="ignore"):  # of enums that are empty
        strict = ismrmrd.xsd.CreateFromDocument(text)
    assert strict.encoding[0].encodedSpace.matrixSize.x == 128
    assert strict.encoding[0].reconSpace is not None
    assert strict.experimentalConditions is not None


def reason(data):
    """Why a header is refused; empty where it is read."""
    try:
        read(data)
    except HeaderError as error:
        return str(error)
    return ""


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_refused_with_a_reason(data):
    assert not PYTHON_WORDS.search(reason(data))
    assert not PYTHON_WORDS.search(reason(HEADER.encode()[:300] + data + HEADER.encode()[300:]))


@settings(max_examples=50)
@given(st.data())
def test_a_header_that_lacks_parts_or_has_odd_values_is_read_or_refused_with_a_reason(data):
    text = HEADER
    for _ in range(data.draw(st.integers(1, 6))):
        elements = list(re.finditer(r"<(\w+)>((?:(?!</?\1>).)*)</\1>", text))
        element = data.draw(st.sampled_from(elements)) if elements else None
        if element is None:
            break
        value = data.draw(
            st.sampled_from(["", "0", "-1", "NaN", "1e999", "9" * 30, "1.5", "x y", "&", "<", "\0", "65536"])
            | st.text(max_size=5)
        )
        replacement = data.draw(st.sampled_from(["", f"<{element[1]}>{value}</{element[1]}>", element[0] * 2]))
        text = text[: element.start()] + replacement + text[element.end() :]
    assert not PYTHON_WORDS.search(reason(text))
