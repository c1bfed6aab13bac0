"""One scan over one connection: a conversation, a chain, and timing."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ..engine import Engine
from ..flow.channel import Stopped
from ..flow.ledger import Ledger
from ..gadgets.kspace import Item
from ..gadgets.scan import Scan
from ..pipelines import loader
from ..pipelines.loader import Pipeline
from ..pipelines.parameters import complaint, of_message
from ..wire import ConfigFile, ConfigScript, Header, Message, ProtocolError, Query, Text
from ..wire.conversation import DATA, Conversation, Meaning, State
from ..wire.errors import IsocenterError, OptionError
from ..wire.header import NO_HEADER
from ..wire.items import Image, Interruption
from . import queries
from .chain import Chain
from .configuration import pipeline_by_name, pipeline_by_text, substitution, with_parameters
from .logs import ScanLog, limited
from .patience import Patience
from .peer import Peer
from .program import end_programs
from .series import SeriesNumbers
from .settings import Settings
from .spool import Spool
from .timing import Timing
from .transport import Receiver, Sender
from .watch import Connected, Ended, ImageSent, Started, Watch, write_to_log

_FAREWELL_SECONDS = 1.0
_NO_PARAMETERS = (
    "the text after the MRD header holds no parameters, and is passed over; "
    'accepted: JSON such as {"parameters": {"bundle": "sense"}}'
)


class Session:
    """Serves one connection from its first byte to its last. ``serve`` returns when it is over and never raises.

    Parameters
    ----------
    sock
        Connected socket; closed at the end.
    settings
        Of the service.
    engine
        Runs the bundles.
    scan_id
        Appears in every line of the log.
    memory
        Bytes that all scans may hold together.
    spool
        Keeps raw data and images, if the settings say where.
    watch
        Told what goes on.
    """

    def __init__(
        self,
        sock: socket.socket,
        settings: Settings,
        engine: Engine,
        scan_id: str,
        *,
        memory: Ledger | None = None,
        spool: Spool | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.scan_id = scan_id
        self.log: ScanLog = ScanLog(scan_id)
        self._socket = sock
        self._watch = watch or Watch(write_to_log)
        waits, keeps = settings.scan_memory
        self._ledger = Ledger(waits, keeps=keeps, whole=memory)
        self._address = _host_of(sock)
        self._recording = (spool or Spool(settings, memory)).recording(scan_id, self._address)
        self._patience = Patience(settings.message_timeout)
        self._patience.grant(settings.handshake_timeout, "configuration and MRD header")
        self._sender = Sender(sock, account=self._ledger.account("sender"), timeout=settings.send_timeout)
        try:
            self._receiver = Receiver(
                sock,
                limits=settings.limits,
                account=self._ledger.account("receiver"),
                patience=self._patience,
                recording=self._recording,
            )
        except BaseException:
            self._sender.finish()
            raise
        self._conversation = Conversation()
        self._peer = Peer(self._sender, self._conversation, self._watch, scan_id)
        self._timing = Timing()
        self._series = SeriesNumbers()
        self._chain: Chain | None = None
        self._is_over = False
        self._notice = ""
        self._is_interrupted = False
        self._is_aborted = False
        self._is_greeted = False
        self._outcome = "failed"

    def serve(self) -> None:
        """Serve the connection."""
        try:
            self._converse()
        except IsocenterError as error:
            self._fail(str(error))
        except (ConnectionError, TimeoutError, Stopped) as error:
            self._outcome = "undelivered"
            if self._receiver.bytes_received:
                self._greet()
                limited(self.log, logging.WARNING, "lost", "the connection was lost: %s", error, most=120)
            else:
                self.log.debug(
                    "the connection was closed without a byte, as by who only looks whether the port is open"
                )
        except BaseException:  # whatever a gadget does, also what would only end this thread
            self.log.exception("reconstruction failed")
            self._fail(f"an internal error ended the scan; the service's log tells more about scan {self.scan_id}")
        finally:
            self._end()

    def _greet(self) -> None:
        """Take note of the peer, now that it is more than somebody who looks whether the port is open."""
        if not self._is_greeted:
            self._is_greeted = True
            self._watch.tell(Connected(self.scan_id, self._address))

    def announce(self, text: str) -> None:
        """Tell the peer something about its scan, from another thread; not before there is one, nor after it."""
        self._notice = text
        self._pass_notice()

    def _pass_notice(self) -> None:
        if self._notice and self._chain is not None and not self._is_over:
            text, self._notice = self._notice, ""
            with suppress(OSError):
                self._peer.tell("WARNING", text)

    def abort(self) -> None:
        """End the scan from another thread, as if the peer had ended it here."""
        self._is_aborted = True
        self.engine.supply.wake()
        self._receiver.abort("the service was stopped")
        end_programs(self.scan_id)

    def abandon(self, reason: str) -> None:
        """Tell the peer that its scan has failed and let go of it, from another thread, as that of the session is held up."""
        self.log.error("%s", reason)
        with suppress(OSError):
            self._peer.fail(reason, [])
            self._peer.close()
        self._sender.finish(_FAREWELL_SECONDS)
        self._receiver.stop()
        with suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_RDWR)

    def _end(self) -> None:
        self._is_over = True
        self._receiver.stop()
        self._sender.finish()
        self._socket.close()
        figures: dict[str, Any] = {
            "pipeline": "" if self._peer.name == "handshake" else self._peer.name,
            "MB": round(self._receiver.bytes_received / 1e6, 1),
            **self._timing.figures(),
        }
        is_lost = self._sender.error is not None and self._outcome != "failed"
        outcome = "undelivered" if is_lost else self._outcome
        if spooled := self._recording.end(pipeline=figures["pipeline"], outcome=outcome, sent=self._timing.images):
            figures["spool"] = spooled
        self._ledger.settle()
        if self._is_greeted:
            self._watch.tell(Ended(self.scan_id, figures))

    def _converse(self) -> None:
        pipeline = self._configured()
        if pipeline is None:
            self._peer.close()
            return
        header = self._header()
        chain = Chain(pipeline, self._scan(header), self.engine)
        self._patience.grant(self.settings.idle_timeout, "further data", DATA)
        first: Item | None = None
        if header is not None:
            chain.warm_up()
            chain, first = self._parametrised(chain, pipeline)
        self._chain = chain
        self._peer.name = chain.pipeline.name
        self._recording.note(pipeline=chain.pipeline.name)
        self._watch.tell(Started(self.scan_id, chain.pipeline.name))
        self._pass_notice()
        if header is not None:
            self._await_bundles(chain)
        for item in chain.process(self._items(first, chain.scan), self.settings, self._timing, self._pass_on):
            self._deliver(item, chain.scan)
        self._timing.stages |= chain.scan.seconds
        self._finish(chain)

    def _await_bundles(self, chain: Chain) -> None:
        """Wait until the scan's bundles are built; its client is told why, and again and again that it goes on.

        Raises
        ------
        OSError
            The client is gone.
        """
        for reason in chain.await_bundles(lambda: self._is_aborted):
            with self._unless_kept():
                chain.scan.inform(f"the reconstruction waits: {reason}")

    def _listen(self) -> Iterator[tuple[Meaning, Message]]:
        """Take messages as they come; questions are answered, and text is noted, on the way."""
        for message in self._receiver:
            self._greet()
            meaning = self._conversation.receive(message)
            if isinstance(message, Query):
                self._peer.answer(queries.answer(message.question, self.engine), message.correlation_id)
            elif isinstance(message, Text) and meaning is Meaning.TEXT:
                self._note(message)
            else:
                yield meaning, message

    def _note(self, message: Text) -> None:
        """Take note of text; parameters that come with the data come too late, which is said."""
        if self._chain is not None and _are_parameters(message.text):
            self._chain.scan.report("late parameters", "parameters came after the first data; they are passed over")
        else:
            self.log.debug("the client says something")

    def _configured(self) -> Pipeline | None:
        """Read the configuration; None if the peer only asked a question or said goodbye."""
        for meaning, message in self._listen():
            if meaning is Meaning.END:
                return None
            if isinstance(message, ConfigFile):
                pipeline = pipeline_by_name(message.name, self.settings, self.log)
            else:
                assert isinstance(message, ConfigScript)
                if loader.is_external_configuration(message.xml):
                    self._peer.is_external_node_of_gadgetron()
                elif (readers := loader.readers_of_host(message.xml)) is not None:
                    self._peer.is_worker_of_gadgetron(readers)
                pipeline = pipeline_by_text(message.xml, self.settings)
            self._peer.name = pipeline.name
            self._warn(substitution(pipeline))
            return pipeline
        self._raise_end("before the configuration")
        return None

    def _header(self) -> bytes | None:
        """Read the MRD header; None if the peer closes instead, as clients do that only ask for stored data."""
        for _, message in self._listen():
            return message.xml if isinstance(message, Header) else None
        self._raise_end("before the MRD header")
        return None

    def _scan(self, header: bytes | None) -> Scan:
        return Scan(
            NO_HEADER if header is None else header,
            engine=self.engine,
            noise_folder=self.settings.noise_folder,
            device=self.engine.device,
            log=self.log,
            name=self.scan_id,
            ledger=self._ledger,
            inform=lambda text: self._peer.tell("INFO", text),
        )

    def _parametrised(self, chain: Chain, pipeline: Pipeline) -> tuple[Chain, Item | None]:
        """Take FIRE's JSON parameters if they come, and return what they make of the chain, and the stream's first message."""
        for meaning, message in self._listen():
            if isinstance(message, DATA):
                return chain, message
            if meaning is Meaning.END:
                break
            if meaning is Meaning.STRAY:
                _report_stray(message, chain.scan)
            if isinstance(message, Text) and (parameters := of_message(message.text)) is not None:
                chain = self._with_parameters(chain, pipeline, parameters)
            elif isinstance(message, Text) and message.text.lstrip().startswith("{"):
                self._warn(_NO_PARAMETERS)
        return chain, None

    def _with_parameters(self, chain: Chain, pipeline: Pipeline, parameters: Mapping[str, Any]) -> Chain:
        """Return the chain as the parameters want it, and tell the client at once of those that nothing reads."""
        scan = chain.scan.with_parameters(parameters)
        chosen = with_parameters(pipeline, scan.parameters, self.settings, self.log)
        self._warn(substitution(chosen) if chosen.name != chain.pipeline.name else "")
        self._warn(complaint(chosen, parameters))
        changed = Chain(chosen, scan, self.engine)
        changed.warm_up()
        return changed

    def _warn(self, text: str) -> None:
        """Tell the client, before its scan, what is not as it may think; nothing if there is nothing to tell."""
        if text:
            self._peer.tell("WARNING", text)

    def _items(self, first: Item | None, scan: Scan) -> Iterator[Item]:
        """Iterate over the stream; where it ends without its end marker, an ``Interruption`` says so.

        It ends so, too, at a message that may not come there: what had come before it is as good as ever.
        """
        if first is not None:
            self._timing.received(first)
            yield first
        if self._conversation.state is State.CLOSED:
            return
        reason: Exception | None = None
        try:
            for meaning, message in self._listen():
                if meaning is Meaning.END:
                    return
                if isinstance(message, DATA):
                    self._timing.received(message)
                    yield message
                else:
                    _report_stray(message, scan)
        except ProtocolError as error:
            reason = error
        yield Interruption(_why(reason or self._receiver.error) or "the connection ended without CLOSE")

    def _deliver(self, item: Item, scan: Scan) -> None:
        if isinstance(item, Interruption):
            self._is_interrupted = True
            scan.report("interrupted", f"the scan was interrupted: {item.reason}")
            return
        if isinstance(item, Image):
            self._series.settle(item, scan)
            self._keep(item, scan)
        sent = False
        with self._unless_kept():
            sent = self._peer.send_item(item, scan.parameters)
        if sent:
            self._timing.sent(item)
            if isinstance(item, Image):
                self._watch.tell(ImageSent(self.scan_id, item.image_series_index, item.image_index))
        else:
            self._timing.left(item)

    def _keep(self, image: Image, scan: Scan) -> None:
        """Spool an image, which says what is not spooled of its scan."""
        if problems := self._report_unspooled(scan):
            image.meta["IsocenterSpool"] = "; ".join(problems)
        self._recording.image(image)

    def _report_unspooled(self, scan: Scan) -> list[str]:
        problems = self._recording.problems()
        for problem in problems:
            if problem not in scan.problems.values():
                scan.report("spool", problem, each=True)
        return problems

    @contextmanager
    def _unless_kept(self) -> Iterator[None]:
        """Let a client that is gone end the scan, unless its images are kept for it."""
        try:
            yield
        except OSError:
            if not self._recording.keeps_images:
                raise
            self.log.debug("the client is gone; what it does not get is in the spool")

    def _pass_on(self, text: str) -> None:
        """Pass on what an external program has for the user."""
        limited(self.log, logging.DEBUG, "program text", "an external program says: %r", text)
        with self._unless_kept():
            self._peer.say(text)

    def _finish(self, chain: Chain) -> None:
        """Say what went wrong on the way, then close."""
        self._report_unspooled(chain.scan)
        problems = chain.scan.problem_messages()
        received, readouts = self._timing.received_items, self._timing.acquisitions
        lacks_images = chain.makes_images and not self._timing.images
        if lacks_images:
            what = f"no image was made from {readouts} acquisitions" if readouts else "no image was made"
            problems.append(what if received else "the scan ended without any data")
        complete = "interrupted" if self._is_interrupted else "finished"
        self._outcome = "failed" if lacks_images and received else complete
        if unused := self._timing.unused(everything=lacks_images):
            problems.append(unused)
        self._peer.report(problems, nothing_made=bool(problems) and (lacks_images or not self._timing.sent_items))
        self._drain()
        self._peer.close()

    def _fail(self, reason: str) -> None:
        """Tell the peer in the way that it can show, let it finish sending, then close."""
        self._greet()
        problems: list[str] = []
        if self._chain is None:  # whoever brings no scan may connect as often as he likes
            limited(self.log, logging.ERROR, "failed", "%s", reason, most=120)
        else:
            self.log.error("%s", reason)
            self._report_unspooled(self._chain.scan)
            problems = self._chain.scan.problem_messages()
        with suppress(OSError):
            self._peer.fail(reason, [problem for problem in problems if reason not in problem])
            if self._peer.is_gadgetron:
                self._peer.close()
                self._drain()
            else:
                self._drain()
                self._peer.close()

    def _drain(self) -> None:
        if self._conversation.state is not State.CLOSED:
            self._receiver.drain(self.settings.drain_timeout)

    def _raise_end(self, when: str) -> None:
        error = self._receiver.error
        if isinstance(error, ProtocolError):
            raise error
        if isinstance(error, TimeoutError):
            raise ProtocolError(_why(error), kind="timeout")
        raise ConnectionError(f"ended {when}: {_why(error) or 'the peer closed the connection'}")


def _why(error: Exception | None) -> str:
    """Say what an error of the connection is, without Python's way of saying it."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error or "")


def _report_stray(message: Message, scan: Scan) -> None:
    what = "the same MRD header again" if isinstance(message, Header) else f"a message of type {type(message).__name__}"
    scan.report("stray message", f"{what} came after the header; it is passed over")


def _host_of(sock: socket.socket) -> str:
    """Address of the peer; empty if it has none."""
    try:
        name = sock.getpeername()
    except OSError:
        return ""
    return str(name[0]) if isinstance(name, tuple) else ""


def _are_parameters(text: str) -> bool:
    try:
        return bool(of_message(text))
    except OptionError:
        return True


logging.getLogger("isocenter").addHandler(logging.NullHandler())
