"""Configurations and headers that are made to harm: what a session sends before its first readout."""

from isocenter.wire import ConfigFile, ConfigScript, Header

from .phases import small_scan

RECONSTRUCT = b'<gadget name="reconstruct"><property name="bundle" value="rss"/></gadget>'
STOCK = b"<gadget><name>a</name><dll>gadgetron_mricore</dll><classname>%s</classname></gadget>"
ENTITIES = b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10 if n else b"x" * 10) for n in range(12))


def own(content: bytes) -> bytes:
    return b"<configuration>" + content + b"</configuration>"


def version_2(content: bytes) -> bytes:
    return b"<configuration><version>2</version><stream>" + content + b"</stream></configuration>"


def version_1(content: bytes) -> bytes:
    return (
        b'<gadgetronStreamConfiguration xmlns="http://gadgetron.sf.net/gadgetron">'
        + content
        + b"</gadgetronStreamConfiguration>"
    )


def option(gadget: bytes, name: bytes, value: bytes) -> bytes:
    return own(
        b'<gadget name="accumulate"/><gadget name="%s"><property name="%s" value="%s"/></gadget>'
        % (gadget, name, value)
    )


CONFIGURATIONS = {
    "nothing": b"",
    "zeros": bytes(1000),
    "no XML": b"\xff\xfe<\0" * 100,
    "an empty element": b"<configuration/>",
    "an empty stream": version_2(b""),
    "260 reconstructions": own(b'<gadget name="accumulate"/>' + 260 * RECONSTRUCT),
    "200 reconstructions": own(b'<gadget name="accumulate"/>' + 200 * RECONSTRUCT),
    "20,000 pipelines": own(20_000 * b'<pipeline name="rss"/>'),
    "10,000 gadgets": own(10_000 * b'<gadget name="finish"/>'),
    "10,000 stock gadgets": version_1(10_000 * (STOCK % b"ExtractGadget")),
    "300 gadgets": own(300 * b'<gadget name="finish"/>'),
    "10,000 readers": version_2(10_000 * b"<readers><reader><classname>x</classname></reader></readers>"),
    "deep XML": 100_000 * b"<configuration>" + 100_000 * b"</configuration>",
    "deep XML in a stream": version_2(20_000 * b"<external>" + 20_000 * b"</external>"),
    "an open tag": b"<configuration" * 50_000,
    "a million attributes": b"<configuration " + b" ".join(b'a%d="1"' % n for n in range(100_000)) + b"/>",
    "a bomb of entities": b"<!DOCTYPE c [" + ENTITIES + b"]><configuration>&a11;</configuration>",
    "an external entity": b'<!DOCTYPE c [<!ENTITY x SYSTEM "file:///etc/passwd">]><configuration>&x;</configuration>',
    "15 MB of text": own(b"x" * 15 * 2**20),
    "15 MB of comment": own(b"<!--" + b"x" * 15 * 2**20 + b"-->"),
    "an unknown gadget": own(b'<gadget name="../../etc/passwd"/>'),
    "an unknown stock gadget": version_1(STOCK % b"RunAnything"),
    "a path as pipeline": own(b'<pipeline name="../../../etc/passwd"/>'),
    "a program": version_2(b'<external><execute name="os" target="system" type="python"/></external>'),
    "an address": version_2(b'<external><connect address="10.0.0.1" port="22"/></external>'),
    "a port that is none": version_2(b'<external><connect address="localhost" port="99999999999"/></external>'),
    "an unknown option": option(b"accumulate", b"__class__", b"1"),
    "a huge number": option(b"compress_coils", b"coils", b"9" * 6000),
    "a negative number": option(b"compress_coils", b"coils", b"-1"),
    "NaN": option(b"finish", b"window_percentile", b"nan"),
    "a path as bundle": option(b"reconstruct", b"bundle", b"../../../etc"),
    "a bundle that is not there": option(b"reconstruct", b"bundle", b"x" * 5000),
    "a bundle of control characters": option(b"reconstruct", b"bundle", b"a&#10;b&#9;c"),
    "UTF-16 that is none": b"\xff\xfe" + own(b"x"),
    "another encoding": b'<?xml version="1.0" encoding="EBCDIC"?>' + own(b""),
}
"""Configurations. Each must be refused with a reason, or do no harm."""


def changed(old: str, new: str) -> bytes:
    """The header of a small scan in which some text is another one."""
    text = small_scan().header
    assert old in text
    return text.replace(old, new).encode()


def hostile_headers() -> dict[str, bytes]:
    """Headers. Each must be refused with a reason, or do no harm."""
    text = small_scan().header
    encoding = text[text.index("<encoding>") : text.index("</encoding>") + len("</encoding>")]
    return {
        "nothing": b"",
        "zeros": bytes(5000),
        "no XML": b"\xff" * 5000,
        "another root": b"<html/>",
        "half of a header": text.encode()[: len(text) // 2],
        "huge matrices": changed("<x>48</x><y>24</y><z>1</z>", "<x>65535</x><y>65535</y><z>65535</z>"),
        "larger matrices than there are": changed(
            "<x>48</x><y>24</y><z>1</z>", f"<x>{10**30}</x><y>{10**30}</y><z>1</z>"
        ),
        "negative matrices": changed("<x>48</x>", "<x>-48</x>"),
        "matrices of nothing": changed("<x>48</x>", "<x>0</x>"),
        "NaN as field of view": changed("<x>240.0</x>", "<x>nan</x>"),
        "infinite field of view": changed("<x>480.0</x>", "<x>1e999</x>"),
        "huge limits": changed("<maximum>23</maximum>", "<maximum>65535</maximum>"),
        "huge announced slices": changed(
            "<slice><minimum>0</minimum><maximum>1</maximum>",
            "<slice><minimum>0</minimum><maximum>4294967295</maximum>",
        ),
        "65535 channels": changed("<receiverChannels>2<", "<receiverChannels>65535<"),
        "negative channels": changed("<receiverChannels>2<", "<receiverChannels>-2<"),
        "a huge acceleration": changed(
            "<trajectory>",
            "<parallelImaging><accelerationFactor><kspace_encoding_step_1>9999999</kspace_encoding_step_1>"
            "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor></parallelImaging><trajectory>",
        ),
        "2,000 encodings": changed(encoding, 2000 * encoding),
        "a million elements": changed("<sequenceParameters>", "<sequenceParameters>" + 1_000_000 * "<TR>1</TR>"),
        "deep nesting": changed("<sequenceParameters>", 100_000 * "<a>" + 100_000 * "</a>" + "<sequenceParameters>"),
        "a bomb of entities": b"<!DOCTYPE c [" + ENTITIES + b"]><ismrmrdHeader>&a11;</ismrmrdHeader>",
        "15 MB of text": changed("<protocolName>brain<", f"<protocolName>{'x' * 15 * 2**20}<"),
        "an id of 100 kB": changed("faulty_small_1_1", "x" * 100_000),
        "an id that is a path": changed("faulty_small_1_1", "../../../tmp/x"),
        "an id of control characters": changed("faulty_small_1_1", "a&#10;b"),
        "itself as dependency": changed(
            "<patientPosition>",
            "<measurementDependency><dependencyType>Noise</dependencyType><measurementID>faulty_small_1_1</measurementID>"
            "</measurementDependency><patientPosition>",
        ),
        "20,000 dependencies": changed(
            "<patientPosition>",
            20_000 * "<measurementDependency><dependencyType>Noise</dependencyType><measurementID>x</measurementID>"
            "</measurementDependency>" + "<patientPosition>",
        ),
        "20,000 coil labels": changed(
            "<receiverChannels>",
            "".join(f"<coilLabel><coilNumber>{n}</coilNumber><coilName>c</coilName></coilLabel>" for n in range(20_000))
            + "<receiverChannels>",
        ),
        "a spiral": changed("cartesian", "spiral"),
    }


def opening(configuration: bytes | None = None, header_xml: bytes | None = None):
    """The two messages before the first readout."""
    text = header_xml if header_xml is not None else small_scan().header.encode()
    return ConfigFile("rss.xml") if configuration is None else ConfigScript(configuration), Header(text)
