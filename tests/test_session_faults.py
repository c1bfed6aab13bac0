"""Everything that a peer can do wrong, by a real server on the loopback: the reason reaches it, and nobody else is disturbed."""

import socket
import struct
import threading
import time

import ismrmrd
import numpy as np
import pytest
from helpers import joined, random_acquisition, stream, wait_until
from isocenter.commands.client import Client, ClientError, replay
from isocenter.simulate.oddities import make_odd
from isocenter.simulate.scan import ScanProtocol, simulate
from isocenter.wire import Close, ConfigFile, ConfigScript, Decoder, ErrorReport, Header, Text
from isocenter.wire.items import AcquisitionBucket, Image, ImageArray
from test_session import GADGETRON, images, talk, texts


def works(service, scan):
    assert len(service.replay(scan).images) == 1
    return True


class TestBadInput:
    """Each ends its own session with a reason; the next scan goes through."""

    @pytest.mark.parametrize(
        ("make", "complaint"),
        [
            (
                lambda s: stream(s, "zzzz.xml"),
                "there is no pipeline 'zzzz.xml'; accepted: Generic_Cartesian_FFT.xml",
            ),
            (lambda s: stream(s, "../../etc/passwd"), "is not the name of a pipeline"),
            (lambda s: joined(ConfigScript(b"<configuration><oops")) + joined(Close()), "not readable as XML"),
            (lambda s: joined(ConfigScript(b"<!DOCTYPE a><configuration/>"), Close()), "DOCTYPE"),
            (
                lambda s: joined(
                    ConfigScript(
                        b"<configuration><version>2</version><stream><gadget><classname>X</classname></gadget></stream></configuration>"
                    ),
                    Close(),
                ),
                "gadget 'X' has no counterpart",
            ),
            (lambda s: joined(ConfigFile("rss"), Header(b"<html/>"), Close()), "root element is 'html'"),
            (lambda s: joined(ConfigFile("rss"), Header(b"not xml"), Close()), "not readable XML"),
            (lambda s: joined(Header(s.header.encode()), Close()), "came before the configuration"),
            (lambda s: joined(ConfigFile("rss"), s.items[0], Close()), "came before the MRD header"),
            (lambda s: joined(ConfigFile("rss"), ConfigFile("rss"), Close()), "second configuration"),
            (
                lambda s: joined(ConfigFile("rss"), Header(s.header.encode()), Header(b"<a/>"), Close()),
                "not accepted within the stream",
            ),
            (lambda s: stream(s, items=[]), "the scan ended without any data"),
            (lambda s: stream(s, "network.xml"), "no bundle is named"),
            (
                lambda s: stream(s, items=[random_acquisition(2, 100) for _ in range(3)]),
                "do not fit the encoded readout",
            ),
        ],
    )
    def test_the_reason_reaches_the_client(self, service, small_scan, make, complaint):
        messages = talk(service, make(small_scan))
        assert complaint in texts(messages)
        assert "ERROR" in texts(messages)
        assert isinstance(messages[-1], Close)
        assert works(service, small_scan)

    @pytest.mark.parametrize(
        ("oddity", "why"), [("radial-trajectory", "(64 times)"), ("simultaneous-slices", "multiband")]
    )
    def test_a_scan_that_is_refused_is_refused_once(self, service, oddity, why):
        """Nothing is said against its noise readouts, nor of noise of the same id that is kept already."""
        scans = [simulate(ScanProtocol(matrix=32, coils=coils, slices=2)) for coils in (2, 3)]
        service.replay(scans[0], "rss")
        answer = service.replay(make_odd(scans[1], oddity, np.random.default_rng(1)), "rss")
        assert len(answer.texts) == 2
        assert why in answer.texts[0]
        assert "no image was made" in answer.texts[1]

    @pytest.mark.parametrize(
        ("rubbish", "complaint"),
        [
            (b"GET / HTTP/1.1\r\n\r\n", "message id 17735 is not known"),
            (struct.pack("<HI", 2, 2**32 - 1), "announces a length"),
            (struct.pack("<H", 1) + b"x" * 1024, "not NUL-terminated"),
        ],
    )
    def test_rubbish(self, service, small_scan, rubbish, complaint):
        messages = talk(service, rubbish, half_close=True)
        assert complaint in texts(messages)
        assert isinstance(messages[-1], Close)
        assert works(service, small_scan)

    def test_rubbish_in_the_middle_of_a_scan(self, service, small_scan):
        data = (
            joined(ConfigFile("rss.xml"), Header(small_scan.header.encode()), *small_scan.items[:9]) + b"\xff\xff" * 100
        )
        messages = talk(service, data, half_close=True)
        assert "message id 65535 is not known" in texts(messages)
        assert works(service, small_scan)

    def test_an_error_arrives_though_the_client_still_sends(self, service, small_scan):
        """More than any socket buffer holds follows the fault; unread it would reset the connection."""
        big = [random_acquisition(32, 4000) for _ in range(30)]
        scan = simulate(ScanProtocol(matrix=32, coils=4))
        scan.items = big
        result = service.replay(scan, "nothing.xml")
        assert "there is no pipeline" in result.texts[0]
        assert result.failed

    def test_truncation_at_every_message_boundary_and_inside(self, service, small_scan):
        head = joined(ConfigFile("rss.xml"), Header(small_scan.header.encode()))
        data = head + joined(*small_scan.items[:6])
        sizes = np.cumsum([0, 2 + 1024, len(head) - 1026, *(len(joined(item)) for item in small_scan.items[:6])])
        cuts = sorted(
            {*sizes.tolist(), *(sizes[:-1] + 1).tolist(), *(sizes[1:] - 1).tolist(), *range(1, len(head), 211)}
        )
        for cut in cuts:
            with service.connect() as sock:
                sock.settimeout(20)
                sock.sendall(data[:cut])
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    continue
        assert works(service, small_scan)

    def test_a_scan_cut_short_still_gives_its_image_and_says_so(self, service, small_scan):
        messages = talk(service, stream(small_scan, items=small_scan.items[:25])[:-2], half_close=True)
        (image,) = images(messages)
        assert "8 of 32 lines are missing (24 to 31)" in image.meta["IsocenterIncomplete"]
        assert "interrupted" in texts(messages)

    def test_damaged_readouts_cost_only_themselves(self, service):
        scan = simulate(ScanProtocol(matrix=32, coils=4))
        scan.items[9].data[:] = np.nan
        scan.items[12].idx.kspace_encode_step_1 = 4000
        scan.items[15] = random_acquisition(7, 64)
        result = service.replay(scan)
        assert len(result.images) == 1
        assert np.isfinite(result.images[0].data).all()
        said = "".join(result.texts)
        assert "WARNING" in said
        assert "NaN" in said
        assert "4000, kspace_encode_step_2 0 is outside the lines 0 to 31" in said
        assert "7 channels where most readouts have 4" in said

    def test_a_client_that_stalls_ends_its_own_session_only(self, make_service, small_scan, caplog):
        service = make_service(handshake_timeout=0.4, idle_timeout=0.5)
        with service.connect() as stalled, service.connect() as silent:
            stalled.sendall(stream(small_scan)[:20_000])
            assert works(service, small_scan)
            stalled.settimeout(20)
            received = b""
            while part := stalled.recv(65536):
                received += part
            silent.settimeout(20)
            while silent.recv(65536):
                continue
        assert "further data did not come within 0.5 seconds" in texts(Decoder().feed(received))

    def test_a_handshake_may_take_other_time_than_a_scan(self, make_service, small_scan):
        service = make_service(handshake_timeout=0.2, idle_timeout=1000)
        with service.connect() as sock:
            sock.settimeout(20)
            sock.sendall(joined(ConfigFile("rss.xml")))
            assert b"configuration and MRD header did not come within 0.2 seconds" in sock.recv(1000)
        with service.connect() as sock:
            sock.sendall(joined(ConfigFile("rss.xml"), Header(small_scan.header.encode())))
            wait_until(lambda: any(s._patience._seconds == 1000 for s in service.server.sessions))
            sock.sendall(joined(*small_scan.items, Close()))
            sock.settimeout(20)
            received = b""
            while part := sock.recv(65536):
                received += part
        assert len(images(Decoder().feed(received))) == 1

    def test_a_client_that_vanishes(self, service, small_scan):
        for _ in range(5):
            sock = service.connect()
            sock.sendall(stream(small_scan)[:30_000])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        assert works(service, small_scan)

    def test_a_client_that_does_not_read_its_images(self, make_service, small_scan):
        service = make_service(send_timeout=1.0, scan_bytes=2**24)
        scan = simulate(ScanProtocol(matrix=96, coils=1, noise_scan=False))
        sock = service.connect()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(20)
        data = stream(scan, items=30 * scan.items)[:-2]
        try:
            for _ in range(100):
                sock.sendall(data)
        except OSError:
            pass
        sock.close()
        assert works(service, small_scan)

    def test_one_more_than_the_limit_is_refused_with_the_reason(self, make_service, small_scan):
        service = make_service(max_connections=1)
        with service.connect() as first:
            first.sendall(stream(small_scan)[:3000])
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                messages = talk(service, b"")
                if texts(messages):
                    break
            assert "1 scan is running already" in texts(messages)
            first.sendall(stream(small_scan)[3000:])
            first.settimeout(20)
            received = b""
            while part := first.recv(65536):
                received += part
        assert len(images(Decoder().feed(received))) == 1


def test_a_server_that_disappears_is_reported_by_the_client(small_scan):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def vanish():
            sock, _ = listener.accept()
            sock.recv(1000)
            sock.close()

        threading.Thread(target=vanish).start()
        sock = socket.create_connection(listener.getsockname())
        with pytest.raises(ClientError, match=r"failed|closed the connection"):
            replay(Client(sock), small_scan.header.encode(), small_scan.items * 20, ConfigFile("rss.xml"))


WORKER = (
    b'<?xml version="1.0"?>\n<configuration>\n\t<version>2</version>\n\t<readers>\n\t\t<reader>\n\t\t\t<dll>gadgetron_mricore'
    b"</dll>\n\t\t\t<classname>MRIImageReader</classname>\n\t\t</reader>\n\t</readers>\n\t<writers>\n\t\t<writer>\n\t\t\t"
    b"<dll>gadgetron_mricore</dll>\n\t\t\t<classname>GadgetIsmrmrdAcquisitionMessageWriter</classname>\n\t\t</writer>\n\t"
    b'</writers>\n\t<stream key="%s">%s\n\t</stream>\n</configuration>\n'
)


"""What a worker of a distributing Gadgetron gets, as its serialize_config writes it."""


RECON = b"".join(
    b"\n\t\t<gadget>\n\t\t\t<dll>gadgetron_mricore</dll>\n\t\t\t<classname>%s</classname>\n\t\t\t<name>%s</name>\n\t\t</gadget>"
    % (name, name)
    for name in (b"AcquisitionAccumulateTriggerGadget", b"BucketToBufferGadget", b"SimpleReconGadget")
)


class TestNoEmptyAnswer:
    """A scan without an image says why, to every kind of peer in its way."""

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda scan: [], "without any data"),
            (lambda scan: [item for item in scan.items if isinstance(item, ismrmrd.Waveform)], "no image was made"),
            (lambda scan: scan.items[:1] * 3, "3 acquisitions"),
        ],
    )
    @pytest.mark.parametrize(
        "configuration",
        [
            ConfigFile("rss.xml"),
            ConfigScript(GADGETRON % b'<pipeline name="rss"/>'),
            ConfigScript(WORKER % (b"", RECON)),
            ConfigScript(WORKER % (b"PureStream", RECON)),
        ],
        ids=["client", "external node", "worker", "pure worker"],
    )
    def test_the_reason_reaches_every_peer(self, service, configuration, make, reason):
        scan = simulate(ScanProtocol(matrix=32, coils=2, waveforms=True))
        messages = talk(service, joined(configuration, Header(scan.header.encode()), *make(scan), Close()))
        assert isinstance(messages[-1], Close)
        said = [message for message in messages if isinstance(message, Text | ErrorReport)]
        assert reason in "".join(message.text for message in said)
        client = isinstance(configuration, ConfigFile)
        assert {type(message) for message in said} == {Text if client else ErrorReport}
        if client:
            assert "ERROR" in texts(messages)

    @pytest.mark.parametrize("key", [b"", b"PureStream", b"own"])
    def test_a_distributing_host_gets_images_and_nothing_that_it_has_no_reader_for(self, service, key):
        scan = simulate(ScanProtocol(matrix=24, coils=2, waveforms=True, extra_readouts=True))
        configuration = ConfigScript(WORKER % (key, RECON))
        messages = talk(service, joined(configuration, Header(scan.header.encode()), *scan.items, Close()))
        assert {type(message) for message in messages} == {Image, Close}

    def test_a_distributing_host_is_told_of_a_configuration_that_cannot_be_run(self, service):
        unknown = RECON.replace(b"SimpleReconGadget", b"MagicGadget")
        messages = talk(service, joined(ConfigScript(WORKER % (b"", unknown)), Close()))
        assert [type(message) for message in messages] == [ErrorReport, Close]
        assert "MagicGadget" in messages[0].text

    @pytest.mark.parametrize(
        "change",
        [
            (b'<stream key="">', b"<stream>"),
            (b"<version>2</version>", b"<version>2</version><!-- mine --><name>x</name>"),
        ],
    )
    def test_a_script_that_a_client_sends_is_answered_in_text(self, service, small_scan, change):
        script = ConfigScript((WORKER % (b"", RECON)).replace(*change))
        messages = talk(service, joined(script, Header(small_scan.header.encode()), Close()))
        assert "without any data" in texts(messages)

    def test_what_no_gadget_takes_is_counted_and_named(self, service, small_scan):
        header = ismrmrd.ImageHeader()
        array = ImageArray(np.zeros((1, 1, 1, 1, 1, 4, 4), np.complex64), [header], (1, 1, 1))
        data = (AcquisitionBucket(), AcquisitionBucket(), array)
        xml = (GADGETRON % b'<gadget name="noise_summary"><property name="noise_file" value="x"/></gadget>').replace(
            b"<configuration>",
            b"<configuration><version>2</version><stream><external><connect port='1'/><configuration>",
            1,
        ) + b"</external></stream></configuration>"
        messages = talk(service, joined(ConfigScript(xml), Header(small_scan.header.encode()), *data, Close()))
        assert "2 acquisition buckets and 1 image array were not used: no gadget of the pipeline takes them" in texts(
            messages
        )

    def test_blocks_that_nothing_reconstructs_are_named(self, service, small_scan):
        xml = (
            b"<configuration><version>2</version><stream><external><connect port='1'/><configuration>"
            b'<gadget name="accumulate"/></configuration></external></stream></configuration>'
        )
        (said,) = service.replay(small_scan, xml).texts
        assert "ERROR: 1 block of k-space was not used" in said

    def test_an_error_that_nobody_expected_shows_nothing_of_itself(self, service, small_scan, monkeypatch, caplog):
        def fail(*_args):
            raise ValueError("too many values of patient Doe to unpack")

        monkeypatch.setattr("isocenter.service.session.Chain.process", fail)
        result = service.replay(small_scan)
        said = "".join(result.texts)
        assert "ERROR: an internal error ended the scan" in said
        assert "Doe" not in said
        assert "ValueError" not in said
        assert "Doe" not in caplog.text
        record = next(record for record in caplog.records if record.getMessage() == "reconstruction failed")
        assert "Doe" not in str(vars(record))
        assert "ValueError in session.py:" in record.fields["error"]
        assert said.rpartition("scan ")[2].strip() == record.scan

    def test_what_went_wrong_before_an_error_is_told_as_well(self, service):
        scan = simulate(ScanProtocol(matrix=32, coils=4, acceleration=4, acs=0))
        scan.items[3].data[:] = np.nan
        result = service.replay(scan, "sense.xml")
        assert not result.images
        said = "".join(result.texts)
        assert "ERROR: coil maps need" in said
        assert "WARNING: readout (scan counter" in said
