"""A bundle that fails, hangs or returns what is no image costs its scan nothing but the bundle's own image."""

import time

import ismrmrd
import numpy as np
import pytest
import torch
from helpers import Recorder, wait_until
from isocenter.engine import Engine, EngineError
from isocenter.simulate.scan import ScanProtocol, simulate


def scan_of(slices=1, scale=1.0):
    scan = simulate(ScanProtocol(matrix=32, coils=4, slices=slices, noise=0.0, noise_scan=False))
    for item in scan.items:
        item.data[:] *= scale
    return scan


STRONG = 1e9


class TestFaults:
    """The scan gets its images all the same, and they say what made them."""

    @pytest.fixture
    def serve(self, make_service_with, make_engine, faulty_bundles):
        def run(bundle, *, slices=2, deadline=60.0, scale=STRONG, fallback="rss"):
            engine = make_engine(faulty_bundles, deadline=deadline)
            for name in (bundle, "rss"):
                engine.prepare(name, {})[0].result(60)
            service = make_service_with(engine)
            pipeline = PIPELINE.replace("BUNDLE", bundle).replace("FALLBACK", fallback).encode()
            return service.replay(scan_of(slices, scale), pipeline), engine

        return run

    @pytest.mark.parametrize(
        ("bundle", "reason"),
        [
            ("ReturnsNan", "values that are not finite"),
            ("Raises", "an error of its own, which is in the service's log"),
            ("NeedsMemory", "memory"),
        ],
    )
    def test_the_fallback_makes_the_images(self, serve, bundle, reason):
        result, _ = serve(bundle)
        assert len(result.images) == 2
        expected, _ = serve("rss", fallback="")
        for image, right in zip(result.images, expected.images, strict=True):
            assert np.array_equal(image.data, right.data)
            assert reason in image.meta["IsocenterFallback"]
            assert image.meta["IsocenterBundle"] == "rss"
            assert "(fallback)" in image.meta["ImageComment"]
        assert any("WARNING" in text and reason in text for text in result.texts)

    def test_a_bundle_that_hangs_is_left_and_used_again_when_it_is_back(self, serve):
        start = time.monotonic()
        result, engine = serve("Hangs", deadline=0.3)
        assert [image.meta["IsocenterBundle"] for image in result.images] == ["rss", "rss"]
        assert "no result after 0.3 seconds" in result.images[0].meta["IsocenterFallback"]
        assert time.monotonic() - start < 10
        with pytest.raises(EngineError, match="suspended"):
            engine.run("Hangs", {"kspace": torch.ones(1, 2, 8, 8, 2)})
        wait_until(lambda: not engine.suspended, 60)
        assert engine.run("Hangs", {"kspace": torch.ones(1, 2, 8, 8, 2)})["image"].shape == (1, 8, 8)

    def test_values_below_zero_are_shown_by_their_magnitudes_and_that_is_said(self, serve):
        result, _ = serve("Signed")
        expected, _ = serve("Raises", scale=1e-3)
        for image, right in zip(result.images, expected.images, strict=True):
            assert image.image_type == ismrmrd.IMTYPE_MAGNITUDE
            assert np.allclose(image.data, right.data * np.float32(STRONG / 1e-3), rtol=1e-4)
            assert "'Signed' returned real values below zero, down to -1" in image.meta["IsocenterNegative"]
        assert any("WARNING" in text and "below zero" in text for text in result.texts)
        assert "IsocenterNegative" not in expected.images[0].meta

    def test_without_a_fault_nothing_is_said(self, serve):
        result, _ = serve("Raises", scale=1e-3)
        assert [image.meta["IsocenterBundle"] for image in result.images] == ["Raises", "Raises"]
        assert "IsocenterFallback" not in result.images[0].meta
        assert not result.texts

    def test_a_scan_that_nothing_can_reconstruct_says_why(self, serve):
        result, _ = serve("Raises", fallback="ReturnsNan")
        assert not result.images
        said = "".join(result.texts)
        assert "an error of its own" in said
        assert "not finite" in said
        assert "ERROR" in said
        assert "too strong" not in said

    def test_a_cancelled_scan_leaves_the_queue(self, make_service_with, bundles):
        device = Recorder()
        engine = Engine([bundles], devices=[device])
        service = make_service_with(engine)
        scan = scan_of(slices=6)
        sock = service.connect()
        from isocenter.wire import ConfigScript, Header, encode

        pipeline = PIPELINE.replace("BUNDLE", "rss").replace("FALLBACK", "").encode()
        for message in (ConfigScript(pipeline), Header(scan.header.encode()), *scan.items):
            sock.sendall(b"".join(bytes(part) for part in encode(message)))
        wait_until(lambda: engine.waiting >= 4)
        sock.close()
        device.go.set()
        wait_until(lambda: not service.server.sessions, 30)
        assert engine.waiting == 0
        engine.close()


PIPELINE = """<?xml version="1.0"?>
<configuration><version>2</version>
  <readers><reader><dll>gadgetron_mricore</dll><classname>GadgetIsmrmrdAcquisitionMessageReader</classname></reader></readers>
  <writers><writer><dll>gadgetron_mricore</dll><classname>MRIImageWriter</classname></writer></writers>
  <stream><external><connect address="127.0.0.1" port="9012"/><configuration>
    <gadget name="accumulate"/>
    <gadget name="remove_oversampling"/>
    <gadget name="reconstruct"><property name="bundle" value="BUNDLE"/><property name="fallback" value="FALLBACK"/></gadget>
    <gadget name="extract"/>
  </configuration></external></stream>
</configuration>"""
