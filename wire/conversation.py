"""Which message may come when, as a table without I/O.

A peer sends a configuration, then the MRD header, then the stream, then CLOSE. In between it may ask questions and send text.
Text that is JSON between header and stream carries FIRE's parameters. A peer that sends no header only wants what is stored.

::

    configuration -> header -> parameters -> stream -> closed

``Conversation`` says of each message what it means in the present state and moves on; what may not come is a ``ProtocolError``
that says what should have come. It also remembers in which dialect the peer is to be answered, which its messages show.

**Why this is a table.** The protocol has no version and no handshake: who is at the other end, a scanner, Gadgetron, or a FIRE
client, shows only in what it sends, and each of them leaves something out or puts something in. A session reads in four places
(configuration, header, parameters, stream), and were the rules written there as conditions, each place would have to think of
every message that is not its own; the one that it forgets is found by a scanner. There are 17 types of messages and 5 states.
``TABLE`` has all of these pairs: what is not in it does not come, and a type that the protocol gets anew is refused in every
state until somebody says here where it belongs. Tests try each pair.

**How both ends stay in step.** There is nothing to agree upon. TCP keeps the order, the decoder hands on whole messages only, and
a state follows from the messages received and from nothing else: no clock, and nothing that we send, moves it. So a recorded
stream goes through the same states as the scan that it was recorded from. How long a peer may take is the session's business
(``service/patience.py``). What we send needs no table: questions are answered where they come, images follow the data that
they are made of, and our CLOSE is the last that we say.

**What always holds.**

- States only go forward; CLOSE leads to the end from anywhere.
- A message either has a meaning or is an error, and after an error everything is as it was before the message.
- There is one configuration and one header. The chain of gadgets that is built from them stands; parameters alone may change
  it, before the first data.
- ``PARAMETERS`` becomes ``STREAM`` with the first data and not with the first text: text there need not be JSON, and a peer that
  sends none loses nothing.
- A dialect once shown is kept: ``terminated`` never becomes False again.

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
    """The receiving side of one session: the state, and what has to be remembered besides.

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
