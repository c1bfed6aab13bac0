"""Which message may come when, as a table without I/O.

A peer sends a configuration, then the MRD header, then the stream, then CLOSE. In between it may ask questions and send text.
Text that is JSON between header and stream carries FIRE's parameters. A peer that sends no header only wants what is stored.

::

    configuration -> header -> parameters -> stream -> closed

``Conversation`` says of each message what it means in the present state and moves on; what may not come is a ``ProtocolError``
that says what should have come. It also remembers in which dialect the peer is to be answered, which its messages show.

After the header, a message that tells nothing of the data is ``STRAY``: the same header again, an answer that nobody asked for.
It is passed over, for it changes no image. A configuration or another header is an error there: what follows may belong to
another scan, so the stream ends where it comes.
"""

from enum import Enum

from .errors import ProtocolError
from .items import (
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
from .messages import Close, ConfigFile, ConfigScript, ErrorReport, Header, Message, Query, Response, Text

DATA = (Acquisition, Waveform, Image, AcquisitionBucket, ReconData, ImageArray, DicomFile)
"""What a stream may consist of."""


class State(Enum):
    """What the peer is to send next."""

    CONFIGURATION = "configuration"
    HEADER = "header"
    PARAMETERS = "parameters"
    STREAM = "stream"
    CLOSED = "closed"


class Meaning(Enum):
    """What a message is in the state in which it comes."""

    CONFIGURATION = "configuration"
    HEADER = "header"
    PARAMETERS = "parameters"
    DATA = "data"
    QUESTION = "question"
    TEXT = "text"
    STRAY = "stray"
    END = "end"


_ANYWHERE = {
    Query: (Meaning.QUESTION, None),
    Text: (Meaning.TEXT, None),
    Close: (Meaning.END, State.CLOSED),
}
_STREAM = {
    **dict.fromkeys(DATA, (Meaning.DATA, State.STREAM)),
    **dict.fromkeys((Response, DependencyReport, Feedback, ErrorReport), (Meaning.STRAY, None)),
}

TABLE: dict[State, dict[type, tuple[Meaning, State | None]]] = {
    State.CONFIGURATION: {
        ConfigFile: (Meaning.CONFIGURATION, State.HEADER),
        ConfigScript: (Meaning.CONFIGURATION, State.HEADER),
        **_ANYWHERE,
    },
    State.HEADER: {Header: (Meaning.HEADER, State.PARAMETERS), **_ANYWHERE},
    State.PARAMETERS: {**_STREAM, **_ANYWHERE, Text: (Meaning.PARAMETERS, None)},
    State.STREAM: {**_STREAM, **_ANYWHERE},
    State.CLOSED: {},
}
"""For each state, what each type of message means and which state it leads to; None stays."""


_COMPLAINTS = {
    State.CONFIGURATION: "came before the configuration; send a configuration first",
    State.HEADER: "came before the MRD header; send the header first",
    State.PARAMETERS: "is not accepted within the stream",
    State.STREAM: "is not accepted within the stream",
    State.CLOSED: "is not accepted after CLOSE",
}


class Conversation:
    """The receiving side of one session.

    Attributes
    ----------
    state
        What comes next.
    terminated
        Whether the peer ends its texts with NUL, as FIRE does, and expects it of ours.
    """

    def __init__(self) -> None:
        self.state: State = State.CONFIGURATION
        self.terminated: bool = False
        self._header: Header | None = None

    def receive(self, message: Message) -> Meaning:
        """Take note of a message, and return what it means.

        Raises
        ------
        ProtocolError
            It may not come now.
        """
        entry = TABLE[self.state].get(type(message))
        if entry is None and self._is_header_again(message):
            return Meaning.STRAY
        if entry is None:
            raise ProtocolError(self._complaint(message))
        meaning, following = entry
        if isinstance(message, ConfigScript | Header):
            self.terminated = self.terminated or message.terminated
        if isinstance(message, Header):
            self._header = message
        self.state = following or self.state
        return meaning

    def _is_header_again(self, message: Message) -> bool:
        again = isinstance(message, Header) and self._header is not None and message.xml == self._header.xml
        return again and self.state is not State.CLOSED

    def _complaint(self, message: Message) -> str:
        if self.state is State.HEADER and isinstance(message, ConfigFile | ConfigScript):
            return "a second configuration came; only one is accepted"
        return f"a message of type {type(message).__name__} {_COMPLAINTS[self.state]}"
