"""What every image says of where it comes from, whoever made it, and whether anything is missing in it."""

import hashlib
import importlib.metadata
import re
import textwrap
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
from isocenter import reconstruct
from isocenter.gadgets.scan import Scan
from isocenter.pipelines import loader
from isocenter.pipelines.loader import FireStep, Pipeline
from isocenter.service import provenance
from isocenter.service.provenance import Provenance
from isocenter.service.settings import Settings
from isocenter.service.version import NOT_INSTALLED, version
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import Close, ConfigFile, ConfigScript, Decoder, Header, encode
from isocenter.wire.header import NO_HEADER
from isocenter.wire.items import DicomFile, Image, ImageArray, ImageHeader, Waveform, make_image

ROOT = Path(__file__).parent.parent
ALWAYS = {
    *("IsocenterVersion", "IsocenterPipeline", "IsocenterPipelineHash", "IsocenterComplete"),
    *("IsocenterBundle", "IsocenterBundleVersion", "IsocenterBundleHash", "IsocenterRuntime", "IsocenterDevice"),
}


def talk(service, *messages, timeout=20):
    with service.connect() as sock:
        sock.settimeout(timeout)
        sock.sendall(b"".join(bytes(buffer) for message in messages for buffer in encode(message)))
        received = b""
        while part := sock.recv(65536):
            received += part
    return Decoder().feed(received)


def picture(**meta):
    header = ImageHeader()
    header.field_of_view = (240, 240, 5)
    return make_image(np.ones((1, 1, 8, 8), np.float32), header, ismrmrd.Meta(meta))


class TestWhatMadeIt:
    def test_a_bundle(self, service, small_scan, bundles):
        for pipeline, bundle in (("rss.xml", "rss"), ("sense", "sense")):
            (image,) = service.replay(small_scan, pipeline).images
            meta = image.meta
            assert meta.keys() >= ALWAYS
            assert meta["IsocenterVersion"] == importlib.metadata.version("isocenter")
            assert meta["IsocenterPipeline"] == f"{bundle}.xml"
            assert meta["IsocenterPipelineHash"] == loader.load(pipeline).digest
            assert meta["IsocenterBundle"] == bundle
            manifest = (bundles / bundle / "model.yaml").read_bytes()
            assert meta["IsocenterBundleHash"] == hashlib.sha256(manifest).hexdigest()
            assert meta["IsocenterRuntime"] != "none"
            assert meta["IsocenterDevice"] == "cpu"
            assert meta["IsocenterNoiseSource"] == "noise readouts of this scan"
            assert meta["IsocenterComplete"] == "yes"
            assert "IsocenterPrograms" not in meta

    def test_in_this_process(self, small_scan, bundles, tmp_path):
        settings = Settings(home=tmp_path, bundles=(bundles,))
        (image,) = reconstruct((small_scan.header, small_scan.items), "rss.xml", settings=settings)
        assert image.meta.keys() >= ALWAYS
        assert image.meta["IsocenterComplete"] == "yes"

    def test_a_client_which_sent_it_as_an_image(self, service, small_scan):
        sent = picture(Mine="kept", IsocenterVersion="0", IsocenterPipelineHash="forged", IsocenterComplete="yes")
        script = ConfigScript(b"<configuration><version>2</version><stream><external><connect port='1'/><configuration>"
                              b"<gadget name='finish'/></configuration></external></stream></configuration>")  # fmt: skip
        messages = talk(service, script, Header(small_scan.header.encode()), sent, Close())
        (image,) = (message for message in messages if isinstance(message, Image))
        assert image.meta.keys() >= ALWAYS
        assert image.meta["Mine"] == "kept"
        assert image.meta["IsocenterVersion"] == importlib.metadata.version("isocenter")
        assert re.fullmatch("[0-9a-f]{64}", image.meta["IsocenterPipelineHash"])
        assert image.meta["IsocenterBundle"] == image.meta["IsocenterRuntime"] == "none"

    def test_what_an_image_lacked_when_it_came_is_still_missing(self, service, small_scan):
        sent = picture(IsocenterIncomplete="the image is incomplete: 1 of 8 lines are missing (7)")
        messages = talk(service, ConfigFile("rss"), Header(small_scan.header.encode()), sent, Close())
        (image,) = (message for message in messages if isinstance(message, Image))
        assert image.meta["IsocenterComplete"] == "no: the image is incomplete: 1 of 8 lines are missing (7)"

    @pytest.fixture
    def lab(self, tmp_path):
        """A FIRE module that makes an image of its own, without a word of ours, of whatever came."""
        source = """
        import ismrmrd, numpy
        def process(connection, config, metadata):
            count = sum(item is not None for item in connection)
            image = ismrmrd.Image.from_array(numpy.full((8, 8), count, numpy.float32))
            image.attribute_string = ismrmrd.Meta({"Lab": "1"}).serialize()
            connection.send_image(image)
            connection.send_close()
        """
        (tmp_path / "lab_images.py").write_text(textwrap.dedent(source))
        return tmp_path

    @pytest.mark.parametrize("cut", [False, True])
    def test_a_program(self, make_service, lab, small_scan, cut):
        service = make_service(fire_modules={"lab": "lab_images"}, python_path=(lab,))
        with service.connect() as sock:
            sock.settimeout(30)
            messages = [ConfigFile("lab"), Header(small_scan.header.encode()), *small_scan.items]
            data = b"".join(bytes(buffer) for message in messages for buffer in encode(message))
            sock.sendall(data + (b"\xff\xff" if cut else b"\x04\0"))
            received = b""
            while part := sock.recv(65536):
                received += part
        (image,) = (message for message in Decoder().feed(received) if isinstance(message, Image))
        assert image.meta.keys() >= ALWAYS
        assert image.meta["Lab"] == "1"
        assert image.meta["IsocenterPrograms"] == "lab_images"
        assert image.meta["IsocenterPipeline"] == "lab"
        assert image.meta["IsocenterBundle"] == "none"
        assert image.meta["IsocenterComplete"].startswith("no: the scan was interrupted" if cut else "yes")


class TestOtherItems:
    @pytest.fixture
    def stamp(self):
        pipeline = Pipeline("p", (FireStep("m", "c"),))
        return Provenance(pipeline, Scan(NO_HEADER)).stamp

    def test_each_image_of_an_array(self, stamp):
        data = np.zeros((1, 1, 3, 1, 1, 2, 2), np.complex64)
        metas = [ismrmrd.Meta({"a": "1"}).serialize(), "<broken"]
        array = stamp(ImageArray(data, [ImageHeader()] * 3, (1, 1, 3), metas))
        first, last = (ismrmrd.Meta.deserialize(array.meta[index]) for index in (0, 2))
        assert first.keys() >= {*ALWAYS, "a"}
        assert last.keys() >= ALWAYS
        assert array.meta[1] == "<broken"

    @pytest.mark.parametrize("meta", [b"", b"\0", ismrmrd.Meta({"a": ["1", "2"]}).serialize().encode()])
    def test_a_dicom_file(self, stamp, meta):
        stamped = stamp(DicomFile(b"DICM", b"name", meta))
        assert (stamped.dicom, stamped.name) == (b"DICM", b"name")
        found = ismrmrd.Meta.deserialize(stamped.meta.decode())
        assert found.keys() >= ALWAYS
        assert found.get("a") == (["1", "2"] if b"a" in meta else None)

    def test_others_are_left_alone(self, stamp):
        waveform = Waveform.from_array(np.zeros((1, 4), np.uint32))
        assert stamp(waveform) is waveform


class TestComplete:
    def test_lines_that_are_missing(self, service):
        scan = simulate(ScanProtocol(matrix=32, coils=4))
        scan.items = scan.items[:-4]
        (image,) = service.replay(scan).images
        assert image.meta["IsocenterComplete"] == f"no: {image.meta['IsocenterIncomplete']}"

    def test_noise_that_is_not_used(self, service):
        scan = simulate(ScanProtocol(matrix=32, coils=4))
        scan.items[0].data[:] = np.nan
        (image,) = service.replay(scan).images
        assert "not prewhitened" in image.meta["IsocenterComplete"]
        assert image.meta["IsocenterNoiseSource"] == "none"

    @pytest.mark.parametrize("name", provenance.DOUBTS)
    def test_a_doubt_leaves_nothing_out(self, name):
        image = picture(**{f"Isocenter{name}": "perhaps", "IsocenterBundle": "x"})
        Provenance(Pipeline("p", ()), Scan(NO_HEADER)).stamp(image)
        assert image.meta["IsocenterComplete"] == "yes"

    def test_a_note_that_nobody_knows_means_that_something_is_left_out(self):
        image = picture(IsocenterNew="half of it", IsocenterBundle="x")
        Provenance(Pipeline("p", ()), Scan(NO_HEADER)).stamp(image)
        assert image.meta["IsocenterComplete"] == "no: half of it"


class TestPipelineHash:
    XML = """<configuration>{}<gadget name="accumulate"/><gadget name="reconstruct">
    <property name="bundle" value="{}"/><property name="series" value="3"/></gadget></configuration>"""

    def digest(self, xml, folders=()):
        return loader.parse(xml.encode(), "any", folders).digest

    def test_what_means_the_same_has_the_same(self, tmp_path):
        plain = self.XML.format("", "rss")
        digest = self.digest(plain)
        assert digest == self.digest(self.XML.format("<!-- a comment -->\n\n  ", "rss"))
        turned = re.sub(r"(<property name=.bundle.*?/>)(<property.*?/>)", r"\2 \1", plain)
        assert turned != plain
        assert digest == self.digest(turned)
        (tmp_path / "inner.xml").write_text(plain)
        assert digest == self.digest('<configuration><pipeline name="inner"/></configuration>', (tmp_path,))

    def test_what_means_something_else_has_another(self):
        texts = [
            self.XML.format("", "rss"),
            self.XML.format("", "sense"),
            self.XML.format('<gadget name="prewhiten"/>', "rss"),
            self.XML.format("", "rss").replace('"3"', '"4"'),
        ]
        assert len({self.digest(text) for text in texts}) == len(texts)

    def test_programs_and_what_they_are_told_count(self):
        stream = "<configuration><version>2</version><stream>{}</stream></configuration>"
        node = '<external><connect address="a" port="{}"/><configuration>{}</configuration></external>'
        nodes = [node.format(1, ""), node.format(2, ""), node.format(1, "<x>1</x>"), node.format(1, " <x>\n1</x>")]
        nodes.append('<external><connect address="a" port="1"/></external>')
        first, *others, spaced, none = (self.digest(stream.format(text)) for text in nodes)
        assert len({first, *others, none}) == 4
        assert spaced == others[-1]
        fire = [Pipeline("n", (FireStep(*names),)).digest for names in (("m", "c"), ("m", "d"), ("o", "c"))]
        assert len(set(fire)) == 3

    def test_every_pipeline_that_is_shipped_has_one(self):
        assert all(re.fullmatch("[0-9a-f]{64}", loader.load(name).digest) for name in loader.available(()))


def test_the_page_of_images_lists_every_attribute():
    page = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `Isocenter(\w+)` \|", page, re.M))
    written = {*provenance.BUNDLE, *provenance.OTHERS, *provenance.DOUBTS}
    for path in (*(ROOT / "gadgets").glob("*.py"), *(ROOT / "service").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        written |= set(re.findall(r'(?:notes|remarks)\["(\w+)"\]', source))
        written |= set(re.findall(r'notes=\{"(\w+)"', source))
        written |= set(re.findall(r'meta\["Isocenter(\w+)"\]', source))
    assert listed == written | {"Noise"}


def test_a_source_tree_that_is_not_installed_has_no_version():
    assert version("isocenter") == importlib.metadata.version("isocenter")
    assert version("isocenter-that-is-not-installed") == NOT_INSTALLED
