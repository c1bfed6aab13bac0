"""Scans that come before their bundles are built wait for them, are told why, and go before what nobody waits for."""

import json
import threading

import pytest
from helpers import wait_until
from isocenter.bundle.manifest import BundleError
from isocenter.commands import stamp
from isocenter.commands.builder import Builder, supply_of
from isocenter.commands.client import ask
from isocenter.commands.shipped import NAMES
from isocenter.engine import Engine, Supply
from isocenter.export.classical import METHODS
from isocenter.export.shipped import SHIPPED
from isocenter.service import systemd
from isocenter.service.settings import Settings


def never():
    return False


def test_the_names_that_are_told_without_imports_are_those_of_what_is_built():
    assert sorted(NAMES) == sorted([*METHODS, *SHIPPED])


class TestSupply:
    def test_what_is_waited_for_is_built_first(self):
        supply = Supply(["a", "b", "c"])
        supply.want(["a", "b", "c"])
        assert supply.take() == "a"
        assert supply.want(["c", "x"])
        assert not supply.want(["x"])
        supply.done("a")
        assert supply.take() == "c"
        supply.done("c", "no disk")
        assert supply.take() == "b"
        supply.done("b")
        assert supply.take() is None
        assert (supply.failures, supply.missing, supply.state) == ({"c": "no disk"}, [], "")

    def test_who_waits_is_told_what_for_and_that_it_goes_on(self):
        supply = Supply(["a", "b"])
        supply.want(["b"])
        said = supply.wait(["b", "there"], never, 0.01)
        assert next(said) == "bundle 'b' is to be built (0 of 2 are done)"
        assert supply.take() == "b"
        assert next(said) == "bundle 'b' is being built (0 of 2 are done)"
        assert next(said).endswith("(0 of 2 are done); 0 s so far")
        supply.done("b")
        assert list(said) == []

    def test_what_is_there_is_checked_and_not_said_to_be_built(self):
        supply = Supply(["a", "b"], there=["a"])
        supply.want(["a", "b"])
        assert supply.state == "bundle 'a' is to be checked, and built again if it is out of date (0 of 2 are done)"
        supply.take()
        assert supply.state.startswith("bundle 'a' is being checked, and built again if")
        supply.done("a")
        assert supply.state.startswith("bundle 'b' is to be built")

    def test_what_is_there_is_told_by_its_manifest(self, tmp_path):
        (tmp_path / "bundles" / "rss").mkdir(parents=True)
        (tmp_path / "bundles" / "rss" / "model.yaml").touch()
        supply = supply_of(Settings(home=tmp_path))
        assert "is to be checked" in next(supply.wait(["rss"], never))
        assert "is to be built" in next(supply.wait(["sense"], never))

    def test_who_leaves_or_is_let_go_waits_no_longer(self):
        supply = Supply(["a"])
        assert list(supply.wait(["a"], lambda: True)) == []
        said = supply.wait(["a"], never, 60)
        next(said)
        threading.Timer(0.05, supply.close).start()
        assert list(said) == []
        assert supply.take() is None

    def test_a_bundle_that_is_to_come_is_not_used_before(self, bundles):
        engine = Engine([bundles], supply=Supply(["rss", "nothing"]))
        with pytest.raises(BundleError, match="'rss' is not ready yet"):
            engine.load("rss")
        engine.supply.done("rss")
        engine.supply.done("nothing", "the disk is full")
        assert engine.load("rss").manifest.name == "rss"
        with pytest.raises(BundleError, match="'nothing' could not be built: the disk is full"):
            engine.load("nothing")
        engine.close()


def test_a_scan_waits_for_its_bundle_while_others_are_served(make_service_with, bundles, small_scan):
    supply = Supply(["sense", "tv"])
    service = make_service_with(Engine([bundles], supply=supply))
    results = []
    waiting = threading.Thread(target=lambda: results.append(service.replay(small_scan, "sense.xml")))
    waiting.start()
    wait_until(lambda: supply.take() == "sense")
    assert len(service.replay(small_scan, "rss.xml").images) == 1
    assert "Ready              : NO, bundle 'sense' is being built" in ask(service.connect(), "gadgetron::info")
    assert not results
    supply.done("sense")
    waiting.join(60)
    assert [image.meta["IsocenterBundle"] for image in results[0].images] == ["sense"]
    assert "INFO: the reconstruction waits: bundle 'sense' is being built (0 of 2 are done)" in "".join(
        results[0].texts
    )
    supply.done("tv", "no disk")
    assert ask(service.connect(), "isocenter::ready") == "YES; bundle 'tv' could not be built"


def test_a_stop_does_not_wait_for_what_is_being_built(make_service_with, bundles, small_scan):
    supply = Supply(["sense"])
    service = make_service_with(Engine([bundles], supply=supply), shutdown_timeout=0.1)
    results = []
    waiting = threading.Thread(target=lambda: results.append(service.replay(small_scan, "sense.xml")))
    waiting.start()
    wait_until(lambda: service.server.sessions and supply.take() == "sense")
    service.stop()
    waiting.join(20)
    assert results[0].failed
    assert "bundle 'sense' is not ready yet" in "".join(results[0].texts)


def test_a_program_builds_what_is_wanted_and_notes_it(tmp_path):
    settings = Settings(home=tmp_path)
    supply = Supply(stamp.missing(settings))
    builder = Builder(settings, supply)
    thread = threading.Thread(target=builder.build)
    thread.start()
    supply.want(["combine"])
    assert list(supply.wait(["combine"], never))
    assert [path.name for path in (tmp_path / "bundles").glob("[!.]*")] == ["combine"]
    assert "combine" not in stamp.missing(settings)
    builder.close()
    thread.join(20)
    assert not thread.is_alive()


def test_a_program_that_dies_costs_only_what_it_was_building(tmp_path, monkeypatch):
    supply = Supply(["a", "b"])
    builder = Builder(Settings(home=tmp_path), supply)
    answers = iter([["false"], ["sh", "-c", f"read name; echo '{json.dumps({'failure': ''})}'"]])
    start = __import__("subprocess").Popen

    def replaced(_command, **options):
        return start(next(answers), **options)

    monkeypatch.setattr("isocenter.commands.builder.subprocess.Popen", replaced)
    supply.want(["a", "b"])
    builder.build()
    assert list(supply.failures) == ["a"]
    assert "ended" in supply.failures["a"]


def test_systemd_is_told(tmp_path, monkeypatch):
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.notify(status="building")
        systemd.notify(ready=True, status="ready")
        assert sock.recv(1000) == b"STATUS=building\nEXTEND_TIMEOUT_USEC=1800000000"
        assert sock.recv(1000) == b"STATUS=ready\nREADY=1"
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nowhere"))
        systemd.notify(stopping=True)
