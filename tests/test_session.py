"""A real server on the loopback: whole scans, questions, pipelines, and the end of the service."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import ismrmrd
import numpy as np
import pytest
from helpers import joined, stream, wait_until
from isocenter.commands.client import Client, Compression, ask, noise_statistics
from isocenter.gadgets.scan import Scan
from isocenter.service.series import SeriesNumbers
from isocenter.service.watch import Connected, Ended, ImageSent, Started, Told
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import Close, ConfigFile, ConfigScript, Decoder, Header, Query, Text
from isocenter.wire.items import Image, ImageArray, make_image

GADGETRON = b"<configuration>%s</configuration>"


"""What an external node of Gadgetron gets."""


def talk(service, data, *, half_close=False, timeout=20):
    """Send bytes and return the messages that come back until the server closes."""
    with service.connect() as sock:
        sock.settimeout(timeout)
        sock.sendall(data)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        received = b""
        while part := sock.recv(65536):
            received += part
    return Decoder().feed(received)


def texts(messages):
    return "".join(message.text for message in messages if isinstance(message, Text))


def images(messages):
    return [message for message in messages if isinstance(message, Image)]


def refuses(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


class TestWholeScans:
    def test_images_come_back_and_the_session_is_closed(self, service, small_scan):
        result = service.replay(small_scan)
        assert len(result.images) == 1
        assert result.images[0].data.shape == (1, 1, 32, 32)
        assert not result.texts

    def test_many_at_once_do_not_mix(self, service):
        scans = [simulate(ScanProtocol(matrix=24 + 8 * n, coils=2 + n, noise=0.1)) for n in range(4)]
        results = [None] * 12

        def run(n):
            results[n] = service.replay(scans[n % 4])

        threads = [threading.Thread(target=run, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for n, result in enumerate(results):
            assert np.array_equal(result.images[0].data, results[n % 4].images[0].data)
            assert result.images[0].data.shape[-1] == 24 + 8 * (n % 4)

    def test_slices_arrive_while_the_scan_runs(self, service):
        scan = simulate(ScanProtocol(matrix=32, coils=2, slices=4))
        seen = threading.Event()
        client = Client(service.connect(), on_image=lambda _: seen.set())
        client.send(ConfigFile("rss.xml"))
        client.send(Header(scan.header.encode()))
        client.send_scan(scan.items[: len(scan.items) // 2])
        assert seen.wait(20), "an image must arrive before the scan is over"
        client.send_scan(scan.items[len(scan.items) // 2 :])
        assert len(client.finish().images) == 4

    def test_a_pipeline_sent_as_xml(self, service, small_scan):
        xml = (
            b"<configuration><version>2</version><stream><external><connect port='1'/><configuration>"
            b"<pipeline name='rss'/></configuration></external></stream></configuration>"
        )
        assert len(service.replay(small_scan, xml).images) == 1

    @pytest.mark.parametrize("compression", [Compression(bits=16), Compression(tolerance=0.1)])
    def test_compressed_readouts(self, service, small_scan, compression):
        noise_level = float(small_scan.items[0].data.std())
        plain = service.replay(small_scan).images[0].data
        packed = service.replay(small_scan, compression=compression, noise_level=noise_level).images[0].data
        assert np.abs(packed - plain).max() < 0.02 * plain.max()

    def test_realtime_keeps_to_the_time_stamps(self, service):
        scan = simulate(ScanProtocol(matrix=16, coils=2, repetition_time=20.0))
        result = service.replay(scan, realtime=True)
        assert 0.25 < result.send_seconds < 1.5

    def test_fire_parameters_choose_pipeline_and_values(self, make_service, small_scan):
        service = make_service(aliases={"openrecon": "network.xml"})
        parameters = json.dumps({"version": "1", "parameters": {"bundle": "rss"}})
        result = service.replay(small_scan, "openrecon", parameters=parameters)
        assert result.images[0].meta["IsocenterBundle"] == "rss"
        parameters = json.dumps({"parameters": {"config": "nothing", "customconfig": "rss"}})
        assert service.replay(small_scan, "openrecon", parameters=parameters).images[0].meta["IsocenterBundle"] == "rss"
        parameters = json.dumps({"parameters": {"config": "rss", "customconfig": ""}})
        assert service.replay(small_scan, "openrecon", parameters=parameters).images[0].meta["IsocenterBundle"] == "rss"

    def test_fire_terminates_strings_with_nul(self, service, small_scan):
        messages = talk(
            service,
            joined(ConfigFile("rss"), Header(small_scan.header.encode(), terminated=True), *small_scan.items, Close()),
        )
        assert len(images(messages)) == 1
        assert isinstance(messages[-1], Close)

    @pytest.mark.parametrize("terminated", [True, False])
    def test_texts_end_with_nul_where_those_of_the_client_do(self, service, small_scan, terminated):
        header = Header(small_scan.header.encode(), terminated=terminated)
        (said, _) = talk(service, joined(ConfigFile("rss"), header, Close()))
        assert "the scan ended without any data" in said.text
        assert said.terminated == terminated

    @pytest.mark.parametrize("text", ["hello", "[1]", "7", '{"parameters": 3}', '{"config": "nothing"}'])
    def test_text_that_holds_no_parameters_changes_nothing(self, service, small_scan, text):
        assert len(service.replay(small_scan, parameters=text).images) == 1

    def test_every_byte_can_be_kept_and_replayed(self, make_service, small_scan, tmp_path):
        service = make_service(spool=tmp_path / "spool")
        first = service.replay(small_scan)
        wait_until(lambda: list((tmp_path / "spool").glob("*.stream")))
        (path,) = (tmp_path / "spool").glob("*.stream")
        assert path.read_bytes() == stream(small_scan)
        assert np.array_equal(images(talk(service, path.read_bytes()))[0].data, first.images[0].data)

    def test_noise_statistics_of_an_earlier_scan(self, service):
        scan = simulate(ScanProtocol(matrix=32, coils=4, measurement_id="noise-7"))
        assert noise_statistics(service.connect(), "noise-7") == {}
        scan.items = scan.items[:1]
        result = service.replay(scan, "default_measurement_dependencies.xml")
        assert not result.images
        assert not result.texts
        values = noise_statistics(service.connect(), "noise-7")
        assert values["channels"] == "4"
        assert float(values["min_sigma"]) > 0


class TestQuestions:
    def test_info_is_what_gadgetrons_tools_parse(self, service):
        answer = ask(service.connect(), "gadgetron::info")
        assert "Python Support     : YES" in answer
        assert "System Memory size :" in answer

    def test_an_unknown_question(self, service):
        assert ask(service.connect(), "meaning::of::life") == "Unknown query"

    def test_a_question_between_the_messages_of_a_scan(self, service, small_scan):
        data = joined(
            Query("isocenter::version", 1),
            ConfigFile("rss.xml"),
            Query("isocenter::version", 2),
            Header(small_scan.header.encode()),
            *small_scan.items[:5],
            Query("isocenter::version", 3),
            *small_scan.items[5:],
            Close(),
        )
        messages = talk(service, data)
        assert [m.correlation_id for m in messages if hasattr(m, "correlation_id")] == [1, 2, 3]
        assert len(images(messages)) == 1

    def test_close_alone_is_answered_with_close(self, service):
        assert talk(service, joined(Close())) == [Close()]


def test_memory_is_bounded_while_a_slow_pipeline_holds_the_stream_back(make_service, small_scan):
    """The server stops reading when its queue is full; TCP holds the client back; nothing is lost."""
    service = make_service(scan_bytes=2**24)
    scan = simulate(ScanProtocol(matrix=64, coils=8, noise_scan=False))
    scan.items = 12 * scan.items
    assert len(service.replay(scan, "sense.xml").images) == 12


def test_listeners_are_told_what_goes_on_and_one_that_fails_does_no_harm(make_service, caplog):
    service, events = make_service(), []

    def fail(event):
        raise ValueError("a listener's own fault")

    service.server.watch.listen(fail)
    service.server.watch.listen(events.append)
    scan = simulate(ScanProtocol(matrix=16, coils=2, slices=2))
    scan.items[3].data[:] = np.nan
    assert len(service.replay(scan).images) == 2
    service.stop()
    kinds = [type(event) for event in events]
    assert kinds[:5] == [Connected, Started, ImageSent, ImageSent, Told]
    assert kinds[-1] is Ended
    assert len({event.scan for event in events}) == 1
    connected, started, first, second, told, *_, ended = events
    assert connected.peer == "127.0.0.1" or connected.peer == "::1"
    assert started.pipeline == ended.figures["pipeline"] == "rss.xml"
    assert (first.series, second.series, {first.index, second.index}) == (first.series, first.series, {1, 2})
    assert (told.severity, "NaN" in told.text) == ("WARNING", True)
    assert (ended.figures["acquisitions"], ended.figures["images"]) == (33, 2)
    assert "a listener failed on Started" in caplog.text


def test_a_session_that_does_not_get_to_a_scan_has_no_pipeline(make_service):
    service, events = make_service(), []
    service.server.watch.listen(events.append)
    assert talk(service, joined(Query("isocenter::version", 1), Close()))[-1] == Close()
    service.stop()
    assert [type(event) for event in events] == [Connected, Ended]
    assert events[-1].figures["pipeline"] == ""
    assert "images" not in events[-1].figures


class TestWhichPipeline:
    """Names of a peer's configuration, and which of them a default stands in for."""

    def test_an_unknown_name_gets_the_default_pipeline_where_there_is_one(self, make_service, small_scan):
        service = make_service(default_pipeline="rss")
        (image,) = service.replay(small_scan, "unheard-of").images
        assert image.meta["IsocenterBundle"] == "rss"

    def test_a_pipeline_with_a_fault_is_not_replaced_by_the_default(self, make_service, small_scan, tmp_path):
        folder = tmp_path / "pipelines"
        folder.mkdir(exist_ok=True)
        (folder / "mine.xml").write_text("<configuration><oops/></configuration>")
        service = make_service(default_pipeline="rss")
        for name in ("mine", "mine.xml"):
            result = service.replay(small_scan, name)
            assert result.failed
            assert "'oops' is not known here" in result.texts[0]

    def test_a_pipeline_of_the_site_runs_only_modules_that_the_settings_list(self, make_service, small_scan, tmp_path):
        folder = tmp_path / "pipelines"
        folder.mkdir(exist_ok=True)
        (folder / "program.xml").write_text(
            "<configuration><version>2</version><stream>"
            '<external><execute name="lab.nets" target="run" type="python"/></external></stream></configuration>'
        )
        result = make_service().replay(small_scan, "program")
        assert "external module 'lab.nets.run' is not listed under 'handlers'" in result.texts[0]

    def test_a_pipeline_of_the_site_may_connect_where_it_likes(self, make_service, small_scan, tmp_path, monkeypatch):
        """What a peer sends may not, whatever address stands in it."""
        monkeypatch.setattr("isocenter.service.program._CONNECT_SECONDS", 0.05)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        xml = (
            "<configuration><version>2</version><stream>"
            f'<external><connect address="127.0.0.1" port="{port}"/><configuration><x/></configuration></external>'
            "</stream></configuration>"
        )
        folder = tmp_path / "pipelines"
        folder.mkdir(exist_ok=True)
        (folder / "program.xml").write_text(xml)
        service = make_service()
        assert "not listed" not in "".join(service.replay(small_scan, "program").texts)
        assert "not listed under 'connect'" in service.replay(small_scan, xml.encode()).texts[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_lets_a_running_scan_finish(tmp_path, bundles, small_scan, number):
    settings = tmp_path / "isocenter.yaml"
    settings.write_text(f"home: {tmp_path}\nbundles: [{bundles}]\nlog_format: json\n")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {**os.environ, "ISOCENTER_HOME": str(bundles.parent)}
    settings.write_text(f"bundles: [{bundles}]\nlog_format: json\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "isocenter.commands.cli", "serve", "--config", str(settings), "--port", str(port)],
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    try:
        from isocenter.commands.client import connect

        data = stream(small_scan)
        with connect("127.0.0.1", port, 60) as sock:
            sock.sendall(data[:20_000])
            ask(connect("127.0.0.1", port, 60), "isocenter::version")  # connections are accepted one after the other
            process.send_signal(number)
            wait_until(lambda: refuses(port))
            sock.sendall(data[20_000:])
            sock.settimeout(60)
            received = b""
            while part := sock.recv(65536):
                received += part
        assert len(images(Decoder().feed(received))) == 1
        log = process.communicate(timeout=30)[1]
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, log
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    ended = next(entry for entry in entries if entry["message"] == "session ended" and "acquisitions" in entry)
    assert ended["images"] == 1
    assert len(ended["scan"]) > 10
    messages = [entry["message"] for entry in entries]
    # bundles that were being loaded may end after it
    assert all(message.startswith("loaded bundle") for message in messages[messages.index("stopped") + 1 :])


def test_a_scan_that_does_not_finish_is_aborted_at_the_stop_and_gives_what_it_has(make_service, small_scan):
    service = make_service(shutdown_timeout=0.5)
    with service.connect() as sock:
        sock.sendall(stream(small_scan)[:110_000])
        wait_until(lambda: any(s._receiver.bytes_received >= 110_000 for s in service.server.sessions))
        start = time.monotonic()
        service.stop()
        assert time.monotonic() - start < 8
        sock.settimeout(5)
        received = b""
        while part := sock.recv(65536):
            received += part
    messages = Decoder().feed(received)
    assert "IsocenterIncomplete" in images(messages)[0].meta
    assert "interrupted" in texts(messages)


def test_the_log_holds_no_patient_data(make_service, caplog, small_scan):
    service = make_service()
    scan = simulate(ScanProtocol(matrix=16, coils=2))
    subject = (
        "<subjectInformation><patientName>Doe^Jane</patientName><patientID>PID4711</patientID></subjectInformation>"
    )
    scan.header = scan.header.replace("<measurementInformation>", subject + "<measurementInformation>")
    with caplog.at_level("DEBUG", logger="isocenter"):
        service.replay(scan)
        service.replay(scan, "nothing.xml")
    assert caplog.records
    assert "Doe" not in caplog.text
    assert "4711" not in caplog.text


class TestSeries:
    def test_images_of_other_size_or_type_get_a_series_of_their_own(self):
        scan, series = Scan(simulate(ScanProtocol(matrix=16)).header), SeriesNumbers()
        settled = []
        for number, shape, dtype in [
            (1, (4, 4), np.float32),
            (1, (5, 4), np.float32),
            (1, (4, 4), np.float32),
            (2, (4, 4), np.float32),
            (1, (5, 4), np.float32),
            (1, (4, 4), np.complex64),
        ]:
            header = ismrmrd.ImageHeader()
            header.image_series_index = number
            image = make_image(np.zeros((1, 1, *shape), dtype), header)
            series.settle(image, scan)
            settled.append(image.image_series_index)
        assert settled == [1, 2, 1, 3, 2, 4]
        assert "images of series 1 differ in size" in scan.problems["series"]

    def test_images_of_several_encoding_spaces_arrive_in_series_of_one_size(self, service):
        first, second = (simulate(ScanProtocol(matrix=n, coils=2, noise_scan=False)) for n in (32, 24))
        encoding = re.search(r"<encoding>.*?</encoding>", second.header).group()
        first.header = first.header.replace("</encoding>", f"</encoding>{encoding}")
        for item in second.items:
            item.encoding_space_ref = 1
        first.items += second.items
        images = service.replay(first).images
        assert {(each.image_series_index, each.data.shape[-1]) for each in images} == {(1, 32), (2, 24)}


def test_image_arrays_are_split_adjusted_and_finished(service, small_scan):
    """As within a Gadgetron, after its reconstruction."""
    random = np.random.default_rng(0)
    data = (random.standard_normal((2, 1, 3, 1, 1, 32, 32)) + 1j).astype(np.complex64)
    headers = []
    for index in range(6):
        header = ismrmrd.ImageHeader()
        header.slice, header.image_index, header.image_series_index = index // 3, index + 1, 1
        header.field_of_view = (240, 240, 5)
        headers.append(header)
    metas = [ismrmrd.Meta({"encoding": "0", "note": str(index)}).serialize() for index in range(5)] + ["<broken"]
    array = ImageArray(data, headers, (2, 1, 3), metas)
    gadgets = (
        b'<gadget name="adjust_field_of_view"/><gadget name="extract"/><gadget name="scale"/><gadget name="finish"/>'
    )
    messages = talk(
        service,
        joined(ConfigScript(GADGETRON % gadgets), Header(small_scan.header.encode()), array, Close()),
    )
    found = images(messages)
    assert [(each.slice, each.image_index) for each in found] == [(index // 3, index + 1) for index in range(6)]
    assert [each.meta.get("note") for each in found] == ["0", "1", "2", "3", "4", None]
    for index, each in enumerate(found):
        expected = np.abs(data.reshape(6, 32, 32)[index])
        ratio = float(each.meta["GADGETRON_ScaleRatio"])
        assert np.allclose(each.data[0, 0], ratio * expected, rtol=1e-5)
        assert each.meta["GADGETRON_ImageNumber"] == str(index + 1)


def test_waveforms_and_navigators_do_not_reach_a_client(service):
    """A client of Gadgetron aborts on messages that it does not know."""
    scan = simulate(ScanProtocol(matrix=48, coils=2, waveforms=True, extra_readouts=True))
    messages = talk(service, stream(scan))
    assert {type(message) for message in messages} == {Image, Text, Close}  # the correction is missed
    assert sum(isinstance(item, ismrmrd.Waveform) for item in scan.items) > 0
