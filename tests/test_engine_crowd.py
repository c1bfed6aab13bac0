"""Many scans at once on one device: they wait for one another, and come back as if each had been alone."""

import threading

import numpy as np
import pytest
from helpers import wait_until
from isocenter.simulate.scan import ScanProtocol, simulate


def replay_together(service, scan, config, count, **options):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(service.replay(scan, config, **options))) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def is_ready(engine, *bundles):
    return all(future.result(300) for bundle in bundles for future in engine.prepare(bundle, {}))


def assert_alike(result, alone):
    assert [image.meta["IsocenterBundle"] for image in result.images] == [
        image.meta["IsocenterBundle"] for image in alone.images
    ], result.texts
    for image, expected in zip(result.images, alone.images, strict=True):
        assert "IsocenterFallback" not in image.meta
        for name in ("IsocenterRuntime", "IsocenterDevice", "IsocenterBatch"):
            assert image.meta[name] == expected.meta[name]
        assert np.array_equal(image.data, expected.data)


class TestTheSameAgain:
    """The same raw data with the same runtime, device and batching gives the same image, bit for bit."""

    @pytest.mark.parametrize("bundle", ["sense", "varnet-brain", pytest.param("modl-brain", marks=pytest.mark.long)])
    def test_one_after_the_other_and_side_by_side(self, make_engine, make_service_with, bundle):
        engine = make_engine()
        assert is_ready(engine, bundle)
        service = make_service_with(engine)
        scan = simulate(ScanProtocol(matrix=96, coils=4, slices=2, acceleration=4, phantom="template", noise=0.3))
        parameters = f'{{"parameters": {{"bundle": "{bundle}"}}}}'
        alone = service.replay(scan, "network.xml", parameters=parameters)
        assert len(alone.images) == 2
        assert {image.meta["IsocenterBundle"] for image in alone.images} == {bundle}
        assert {image.meta["IsocenterBatch"] for image in alone.images} == {"1 of 1"}
        for _ in range(2):
            assert_alike(service.replay(scan, "network.xml", parameters=parameters), alone)
        for result in replay_together(service, scan, "network.xml", 4, parameters=parameters):
            assert_alike(result, alone)


def test_a_scan_that_waits_for_others_is_told_and_loses_nothing(
    make_engine, make_service_with, monkeypatch, small_scan
):
    monkeypatch.setattr("isocenter.gadgets.series._PATIENCE", 0.1)
    engine = make_engine(deadline=0.5)
    assert is_ready(engine, "sense")
    service = make_service_with(engine)
    alone = service.replay(small_scan, "sense.xml")
    go_on = threading.Event()

    def hold():
        return go_on.wait(20)

    engine._crew.submit_errand(hold, bundle="", scan="another", device="cpu", seconds=20)
    results = []
    thread = threading.Thread(target=lambda: results.append(service.replay(small_scan, "sense.xml")))
    thread.start()
    wait_until(lambda: engine.waiting)
    thread.join(2)  # four times the deadline
    go_on.set()
    thread.join(20)
    (result,) = results
    assert_alike(result, alone)
    (text,) = result.texts
    assert text == "[Isocenter/sense.xml] INFO: the reconstruction waits: 1 scan before this one\n"
    assert not engine.suspended


@pytest.mark.long
@pytest.mark.parametrize(
    ("config", "protocol"),
    [
        ("sense.xml", {"matrix": 192, "coils": 8, "acceleration": 2}),
        ("network.xml", {"matrix": 128, "coils": 8, "acceleration": 4, "phantom": "template"}),
    ],
)
def test_64_scans_at_once(make_engine, make_service_with, config, protocol):
    engine = make_engine(default_bundle="modl-brain")
    assert is_ready(engine, "sense", "modl-brain")
    service = make_service_with(engine, max_connections=64)
    scan = simulate(ScanProtocol(noise=0.3, **protocol))
    alone = service.replay(scan, config)
    assert alone.images
    results = replay_together(service, scan, config, 64)
    assert len(results) == 64
    for result in results:
        assert_alike(result, alone)
    assert not engine.suspended


@pytest.mark.long
def test_an_image_that_takes_long_costs_neither_itself_nor_its_neighbours(make_engine, make_service_with):
    engine = make_engine(deadline=0.5)
    assert is_ready(engine, "sense", "tv")
    service = make_service_with(engine)
    slices = simulate(ScanProtocol(matrix=96, coils=8, acceleration=2, slices=3, noise=0.3))
    scan = simulate(ScanProtocol(matrix=512, coils=8, acceleration=2, noise=0.3))
    alone = service.replay(slices, "sense.xml")
    large = []
    parameters = '{"parameters": {"bundle": "tv"}}'
    thread = threading.Thread(target=lambda: large.append(service.replay(scan, "network.xml", parameters=parameters)))
    thread.start()
    wait_until(lambda: engine._crew.state.running)
    assert_alike(service.replay(slices, "sense.xml"), alone)  # they wait for it, which does not count
    thread.join()
    assert [image.meta["IsocenterBundle"] for image in large[0].images] == ["tv"], large[0].texts
    assert not engine.suspended
