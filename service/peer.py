"""Speaking to the peer in the way that it can read: a scanner's client, or a Gadgetron of which this is an external node."""

from collections.abc import Collection, Mapping
from typing import Any

from ..gadgets.kspace import Item, Kspace
from ..gadgets.recon_data import from_kspace
from ..pipelines.parameters import wants_feedback
from ..wire import Close, ErrorReport, Message, Response, Text, encode
from ..wire.conversation import DATA, Conversation
from ..wire.items import (
    Acquisition,
    AcquisitionBucket,
    DependencyReport,
    DicomFile,
    Feedback,
    Image,
    ImageArray,
    ReconData,
    Waveform,
)
from .transport import Sender
from .watch import Told, Watch

_TO_CLIENT: tuple[type, ...] = (Image, DependencyReport, DicomFile)
_READ_BY: dict[str, type] = {
    "AcquisitionReader": Acquisition,
    "GadgetIsmrmrdAcquisitionMessageReader": Acquisition,
    "WaveformReader": Waveform,
    "GadgetIsmrmrdWaveformMessageReader": Waveform,
    "ImageReader": Image,
    "MRIImageReader": Image,
    "BufferReader": ReconData,
    "ImageArrayReader": ImageArray,
    "AcquisitionBucketReader": AcquisitionBucket,
}
"""What Gadgetron's readers take; it fails on what it has no reader for."""


class Peer:
    """The sending side of one session.

    Parameters
    ----------
    sender
        Writes to the connection.
    conversation
        Knows how the peer ends its texts.
    watch, scan
        Told what the peer is told, of this scan.

    Attributes
    ----------
    is_gadgetron
        Whether the peer is a Gadgetron; then data goes to it and no text, and errors as message 8, which no client knows.
    name
        What texts begin with.
    """

    def __init__(self, sender: Sender, conversation: Conversation, watch: Watch, scan: str) -> None:
        self._sender = sender
        self._conversation = conversation
        self._watch = watch
        self._scan = scan
        self.is_gadgetron: bool = False
        self._accepted = _TO_CLIENT
        self.name = "handshake"

    def is_external_node_of_gadgetron(self) -> None:
        """Take note that this is an external node; what its Gadgetron reads is not said."""
        self.is_gadgetron, self._accepted = True, DATA

    def is_worker_of_gadgetron(self, readers: Collection[str]) -> None:
        """Take note that this is a worker of a Gadgetron that distributes, which has these readers."""
        self.is_gadgetron, self._accepted = True, tuple({_READ_BY[name] for name in readers if name in _READ_BY})

    def send(self, message: Message) -> None:
        """Send a message.

        Raises
        ------
        OSError
            The connection is lost.
        """
        self._sender.send(encode(message))

    def send_item(self, item: Item, parameters: Mapping[str, Any]) -> bool:
        """Send what comes out of the chain; False for what this peer does not take.

        A client of Gadgetron aborts on messages that it does not know, so feedback goes out only where the scan's parameters
        ask for it.
        """
        if isinstance(item, Kspace) and self.is_gadgetron:
            item = from_kspace(item)
        if not isinstance(item, self._accepted) and not (isinstance(item, Feedback) and wants_feedback(parameters)):
            return False
        self.send(item)  # type: ignore[arg-type]
        return True

    def answer(self, answer: str, correlation_id: int) -> None:
        """Answer a question."""
        self.send(Response(answer, correlation_id))

    def say(self, text: str) -> None:
        """Send text; a Gadgetron takes none."""
        if not self.is_gadgetron:
            self.send(Text(text, self._conversation.terminated))

    def tell(self, severity: str, text: str) -> None:
        """Send a line that a scanner's client shows."""
        self._watch.tell(Told(self._scan, severity, text))
        self.say(f"[Isocenter/{self.name}] {severity}: {text}\n")

    def report(self, problems: list[str], *, nothing_made: bool) -> None:
        """Say what went wrong on the way."""
        if not self.is_gadgetron:
            for problem in problems:
                self.tell("ERROR" if nothing_made else "WARNING", problem)
        elif nothing_made:
            self.send(ErrorReport("; ".join(problems)))

    def fail(self, reason: str, problems: list[str]) -> None:
        """Say why the scan cannot go on, and what went wrong before."""
        if self.is_gadgetron:
            self.send(ErrorReport(f"[Isocenter] {'; '.join([reason, *problems])}"))
            return
        self.tell("ERROR", reason)
        for problem in problems:
            self.tell("WARNING", problem)

    def close(self) -> None:
        """Say that nothing more comes."""
        self.send(Close())
