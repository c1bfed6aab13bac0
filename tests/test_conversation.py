"""Which message may come when: every state with every type of message, without a socket."""

import numpy as np
import pytest
from helpers import random_acquisition
from hypothesis import given
from hypothesis import strategies as st
from isocenter.wire import (
    Close,
    ConfigFile,
    ConfigScript,
    ErrorReport,
    Header,
    ProtocolError,
    Query,
    Response,
    Text,
)
from isocenter.wire.conversation import TABLE, Conversation, Meaning, State
from isocenter.wire.items import (
    AcquisitionBucket,
    DependencyReport,
    DicomFile,
    Feedback,
    Image,
    ImageArray,
    ReconData,
    Waveform,
)

STRAYS = {Response, DependencyReport, Feedback, ErrorReport}

DATA = (
    *(random_acquisition(), Waveform(), Image(), AcquisitionBucket(), ReconData(), DicomFile(b"DICM")),
    ImageArray(np.zeros((1, 1, 1, 1, 1, 1, 1), np.complex64), [], (0, 0, 0)),
)
CONTROL = (
    *(ConfigFile("a"), ConfigScript(b"<a/>"), Header(b"<a/>"), Query("q", 1), Text("{}"), Close()),
    *(ErrorReport("e"), Response("r", 1), DependencyReport({}), Feedback("n", b"")),
)
OPENING = {
    State.CONFIGURATION: (),
    State.HEADER: (ConfigFile("a"),),
    State.PARAMETERS: (ConfigFile("a"), Header(b"<a/>")),
    State.STREAM: (ConfigFile("a"), Header(b"<a/>"), DATA[0]),
    State.CLOSED: (Close(),),
}
ACCEPTED = {
    State.CONFIGURATION: {ConfigFile, ConfigScript, Query, Text, Close},
    State.HEADER: {Header, Query, Text, Close},
    State.PARAMETERS: {*map(type, DATA), Query, Text, Close, *STRAYS, Header},
    State.STREAM: {*map(type, DATA), Query, Text, Close, *STRAYS, Header},
    State.CLOSED: set(),
}


def in_state(state):
    conversation = Conversation()
    for message in OPENING[state]:
        conversation.receive(message)
    assert conversation.state is state
    return conversation


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("message", [*DATA, *CONTROL], ids=lambda message: type(message).__name__)
def test_every_message_in_every_state(state, message):
    conversation = in_state(state)
    if type(message) in ACCEPTED[state]:
        assert isinstance(conversation.receive(message), Meaning)
        return
    with pytest.raises(ProtocolError) as caught:
        conversation.receive(message)
    assert caught.value.kind == "protocol"
    assert conversation.state is state


@given(st.lists(st.sampled_from((*DATA, *CONTROL)), max_size=12))
def test_a_conversation_never_goes_back(messages):
    conversation, order = Conversation(), list(State)
    for message in messages:
        before = conversation.state
        try:
            meaning = conversation.receive(message)
        except ProtocolError:
            assert conversation.state is before
            continue
        assert order.index(conversation.state) >= order.index(before)
        assert (meaning is Meaning.END) == (conversation.state is State.CLOSED)
        assert (meaning is Meaning.DATA) == isinstance(message, tuple(map(type, DATA)))


@pytest.mark.parametrize("state", [State.PARAMETERS, State.STREAM])
@pytest.mark.parametrize(
    "message", [m for m in CONTROL if type(m) in STRAYS], ids=lambda message: type(message).__name__
)
def test_what_tells_nothing_of_the_data_is_stray_after_the_header(state, message):
    conversation = in_state(state)
    assert conversation.receive(message) is Meaning.STRAY
    assert conversation.state is state


@pytest.mark.parametrize("state", [State.PARAMETERS, State.STREAM])
def test_a_header_may_come_again_if_it_is_the_same(state):
    conversation = in_state(state)
    assert conversation.receive(Header(b"<a/>", terminated=True)) is Meaning.STRAY
    with pytest.raises(ProtocolError, match="Header is not accepted within the stream"):
        conversation.receive(Header(b"<b/>"))
    assert conversation.state is state


def test_text_is_parameters_only_between_header_and_stream():
    meanings = {state: in_state(state).receive(Text("{}")) for state in State if state is not State.CLOSED}
    assert [state for state, meaning in meanings.items() if meaning is Meaning.PARAMETERS] == [State.PARAMETERS]


@pytest.mark.parametrize("message", [ConfigScript(b"<a/>", terminated=True), Header(b"<a/>", terminated=True)])
def test_a_peer_that_ends_its_texts_with_nul_is_remembered(message):
    conversation = in_state(State.CONFIGURATION if isinstance(message, ConfigScript) else State.HEADER)
    assert not conversation.terminated
    conversation.receive(message)
    assert conversation.terminated


def test_one_text_with_nul_is_enough():
    conversation = Conversation()
    conversation.receive(ConfigScript(b"<a/>", terminated=True))
    conversation.receive(Header(b"<a/>"))
    assert conversation.terminated


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        (State.HEADER, "a second configuration came"),
        (State.PARAMETERS, "ConfigFile is not accepted within the stream"),
        (State.CLOSED, "ConfigFile is not accepted after CLOSE"),
    ],
)
def test_a_configuration_that_comes_too_late_is_told_why(state, complaint):
    with pytest.raises(ProtocolError, match=complaint):
        in_state(state).receive(ConfigFile("b"))


def test_the_table_has_every_state():
    assert set(TABLE) == set(State)
