import pytest
from isocenter.simulate.header import header_xml
from isocenter.simulate.protocol import ScanProtocol
from isocenter.wire.errors import HeaderError
from isocenter.wire.header import Limit, parse_encodings, parse_header

HEADER = header_xml(ScanProtocol(matrix=64, acceleration=2, partial_fourier=0.75))


def test_numbers_of_the_encoding():
    (encoding,) = parse_encodings(parse_header(HEADER))
    assert encoding.encoded_matrix == (128, 64, 1)
    assert encoding.recon_matrix == (64, 64, 1)
    assert encoding.cropped_readout == 64
    assert encoding.acceleration == (2, 1)
    assert encoding.calibration_mode == "embedded"
    assert encoding.limits["kspace_encoding_step_1"] == Limit(0, 47, 16)
    assert encoding.line_offset(1) == 16


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h + "\0\0",
        lambda h: h.replace(' xmlns="http://www.ismrm.org/ISMRMRD"', ""),
        lambda h: h.replace("<encoding>", "<vendorThing><a>1</a></vendorThing><encoding>", 1),
        lambda h: h[: h.index("<acquisitionSystemInformation>")] + h[h.index("</acquisitionSystemInformation>") + 31 :],
        lambda h: h[: h.index("<experimentalConditions>")] + h[h.index("</experimentalConditions>") + 25 :],
        lambda h: h[: h.index("<sequenceParameters>")] + "</ismrmrdHeader>",
        lambda h: h[: h.index("<kspace_encoding_step_1><minimum>")] + h[h.index("</kspace_encoding_step_1>") + 25 :],
    ],
    ids=["trailing NUL", "no namespace", "unknown element", "no system", "no conditions", "no sequence", "no limits"],
)
def test_what_scanners_write_is_accepted(change):
    header = parse_header(change(HEADER))
    assert parse_encodings(header)[0].encoded_matrix == (128, 64, 1)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not readable XML"),
        ("<ismrmrdHeader", "not readable XML"),
        ("<something/>", "root element is <something>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + HEADER.partition("?>")[2], "DOCTYPE"),
        ('<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"/>', "no <encoding>"),
        (HEADER.replace("<x>128</x>", "<x>0</x>"), "must be positive"),
        (HEADER.replace("<x>128</x>", "<x>many</x>"), "encoding 0"),
        (HEADER.replace("<encodedSpace>", "<other>").replace("</encodedSpace>", "</other>"), "schema|encodedSpace"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_other_headers_are_refused_with_the_reason(text, complaint):
    with pytest.raises(HeaderError, match=complaint):
        parse_encodings(parse_header(text))
