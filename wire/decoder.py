"""Bytes to messages. Feed it from any source; it holds what is incomplete and never copies samples needlessly.

A scan is mostly readouts, thousands a second, and the price of one is what it costs to touch its samples. So they are received
into large pieces of memory (*slabs*) and never moved: the ``Acquisition`` that is returned is a view of the slab. Three things
follow.

- A slab may be written again only when nothing refers to it any more, which its reference count says. It counts the arrays
  that gadgets keep, however they got them, so nobody has to give anything back, and forgetting to cannot corrupt a scan.
- A message must not lie across two slabs. Where messages repeat in size, as readouts do, only as much is received into a slab
  as holds whole ones (``_room``); otherwise what has come of a message is copied to the next slab once.
- Readouts without trajectory and compression, nearly all, are recognised by five fields of their header and built without the
  reader that serves every other message (``_plain_acquisitions``).

A message that is not there completely is parsed anew when more has come: readers are plain functions, which raise
``NeedMoreError`` with the least size that is missing. Lists remember how far they got (``Cursor.each``), so that one that comes
in small pieces is not read from its beginning for each. Lengths are checked before memory is taken for what they announce.
"""

import struct
import sys
from collections.abc import Callable
from functools import cache
from xml.etree.ElementTree import ParseError

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from .arrays import read_bucket, read_image_array, read_recon_data, read_waveform
from .compression import decompress_nhlbi, decompress_zfp
from .cursor import COMPLEX64, FLOAT32, OBJECT_BYTES, U32, U64, Cursor, NeedMoreError
from .errors import Limits, ProtocolError, TruncatedError, UnknownMessageError
from .items import (
    IMAGE_DTYPES,
    Acquisition,
    AcquisitionHeader,
    DependencyReport,
    DicomFile,
    Feedback,
    Image,
    ImageHeader,
    make_acquisition,
    make_image,
)
from .messages import (
    Close,
    ConfigFile,
    ConfigScript,
    ErrorReport,
    Header,
    Message,
    MessageId,
    Query,
    Response,
    Text,
)

_ID = struct.Struct("<H")
_QUERY = struct.Struct("<QQ")
_CONFIG_FILE_BYTES = 1024
_ACQUISITION_HEADER_BYTES = 340
_IMAGE_HEADER_BYTES = 198
_ZFP_FLAG = 1 << (ismrmrd.ACQ_COMPRESSION1 - 1)
_NHLBI_FLAG = 1 << (ismrmrd.ACQ_COMPRESSION2 - 1)
_COMPRESSED = _NHLBI_FLAG | _ZFP_FLAG
# message id, flags, number_of_samples, active_channels, trajectory_dimensions
_PLAIN_HEADER = struct.Struct("<H2xQ24xH2xH136xH162x")
_PLAIN_HEADER_BYTES = _ID.size + _ACQUISITION_HEADER_BYTES
_SLAB_BYTES = 2 * 2**20
_LARGE_MESSAGE = 4096
_META_BYTES = 8
"""What meta attributes take, parsed, for each byte of their XML."""
_FIRST_BYTES = 2**16
"""Received of a message that is probably too large for the usual piece, before memory of its own is taken for it."""


def _count_references(pool: list[NDArray[np.uint8]]) -> int:
    """References that a slab has when only the pool holds it, counted the way ``Decoder`` counts them."""
    for slab in pool:
        return sys.getrefcount(slab)
    raise AssertionError


_UNREFERENCED = _count_references([np.empty(1, np.uint8)])


class Decoder:
    """Decodes the protocol from received bytes.

    Receive into ``writable()``, say how much came with ``received(n)``, and get the messages that are complete.
    Samples of acquisitions are views of the receive memory, which is used again once nothing refers to it.

    Parameters
    ----------
    limits
        Longest lengths accepted.
    slab_bytes
        Size of a piece of receive memory.

    Attributes
    ----------
    fault
        What ended the stream; None while it goes on. Nothing is decoded behind it, as where the next message begins is lost.
    """

    def __init__(self, limits: Limits | None = None, *, slab_bytes: int = _SLAB_BYTES) -> None:
        self.limits: Limits = limits or Limits()
        self._slab_bytes = slab_bytes
        self._pool: list[NDArray[np.uint8]] = []
        self._slab = self._free_slab(slab_bytes)
        self._start = 0
        self._end = 0
        self._need = _ID.size
        self._last_size = 0
        self._progress: dict[int, tuple[int, int]] = {}
        self.made: int = 0
        """Bytes of memory that the messages returned last take besides those that were received."""
        self.fault: ProtocolError | None = None

    def writable(self) -> memoryview:
        """Memory to receive the next bytes into; never empty."""
        room = self._room()
        if room <= 0:
            self._change_slab()
            room = self._room()
        return self._slab.data[self._end : self._end + room]

    @property
    def growth(self) -> int:
        """Bytes of memory that ``writable`` will take for a message that announces more than the usual piece holds; or 0."""
        return self._next_size() if self._need > self._slab_bytes and self._room() <= 0 else 0

    def _next_size(self) -> int:
        """Bytes of the next piece: enough for the message, and twice what came where it goes on after what was announced."""
        if self._need <= self._slab_bytes:
            return self._slab_bytes
        goes_on = self.held > self._slab_bytes
        return min(max(self._need, 2 * self.held if goes_on else 0), max(self._need, self.limits.message))

    @property
    def announced(self) -> int:
        """Bytes that the message on its way has at least."""
        return self._need

    @property
    def held(self) -> int:
        """Bytes that have come of a message that is not complete."""
        return self._end - self._start

    def _room(self) -> int:
        """Bytes that still fit; where messages repeat in size, only whole messages, so that none lies across two slabs."""
        capacity = self._slab.size - self._start
        if self._need > capacity:
            return 0
        if self._last_size > self._slab_bytes >= self._need:
            capacity = min(capacity, _FIRST_BYTES)
        elif _LARGE_MESSAGE <= self._last_size <= capacity and self._need <= self._last_size:
            capacity = capacity // self._last_size * self._last_size
        return self._start + capacity - self._end

    def _change_slab(self) -> None:
        held = self.held
        slab = self._free_slab(self._next_size())
        slab[:held] = self._slab[self._start : self._end]
        self._slab, self._start, self._end = slab, 0, held

    def _free_slab(self, size: int) -> NDArray[np.uint8]:
        for slab in self._pool:
            if slab.size >= size and sys.getrefcount(slab) <= _UNREFERENCED:
                return slab
        slab = np.empty(size, np.uint8)
        if size == self._slab_bytes:
            self._pool = [*self._pool[-7:], slab]
        return slab

    def received(self, count: int) -> list[Message]:
        """Take note of ``count`` bytes that now lie in ``writable()``, and return the messages that are complete.

        Raises
        ------
        ProtocolError
            The bytes are no message. Messages before the fault are returned first; ``fault`` then holds the error.
        """
        if self.fault is not None:
            raise self.fault
        self._end += count
        self.made = 0
        messages: list[Message] = self._plain_acquisitions()
        while self._end - self._start >= self._need:
            try:
                cursor = Cursor(self._slab, self._start, self._end, self.limits, self._progress)
                messages.append(self._parse(cursor))
            except NeedMoreError as more:
                self._need = more.total
                break
            except ProtocolError as error:
                self.fault = error
                if messages:
                    break
                raise
            self._last_size = cursor.position - self._start
            self._start = cursor.position
            self._need = _ID.size
            self._progress = {}
            self.made += cursor.made
        self.made += OBJECT_BYTES * len(messages)
        return messages

    def _plain_acquisitions(self) -> list[Message]:
        """Take the acquisitions without trajectory and compression that come next: the bulk of a scan, on the shortest way."""
        messages: list[Message] = []
        slab, memory = self._slab, self._slab.data
        while self._end - self._start >= _PLAIN_HEADER_BYTES:
            start = self._start
            number, flags, samples, channels, dimensions = _PLAIN_HEADER.unpack_from(memory, start)
            size = _PLAIN_HEADER_BYTES + 8 * samples * channels
            plain = number == MessageId.ACQUISITION and not dimensions and not flags & _COMPRESSED
            if not plain or start + size > self._end or size > self.limits.message:
                break
            header = AcquisitionHeader.from_buffer(slab, start + _ID.size)  # type: ignore[arg-type]
            data = np.ndarray((channels, samples), np.complex64, slab, start + _PLAIN_HEADER_BYTES)  # type: ignore[arg-type]
            messages.append(make_acquisition(header, data, _no_trajectory(samples)))
            self._start, self._last_size, self._need = start + size, size, _ID.size
        return messages

    def feed(self, data: bytes) -> list[Message]:
        """Decode bytes that are at hand already, as ``received`` does; they are copied.

        Raises
        ------
        ProtocolError
            The bytes are no message.
        """
        messages: list[Message] = []
        view = memoryview(data)
        while len(view):
            target = self.writable()
            count = min(len(target), len(view))
            target[:count] = view[:count]
            messages += self.received(count)
            view = view[count:]
        return messages

    def finish(self) -> None:
        """Say that no more bytes will come.

        Raises
        ------
        TruncatedError
            The stream ended inside a message.
        """
        if self.held:
            raise TruncatedError(
                f"the connection ended inside a message: {self.held} of at least {self._need} bytes had arrived"
            )

    def _parse(self, cursor: Cursor) -> Message:
        (number,) = cursor.unpack(_ID, "message id")
        reader = _READERS.get(number)
        if reader is None:
            known = ", ".join(str(int(each)) for each in sorted(_READERS))
            raise UnknownMessageError(f"message id {number} is not known", accepted=known)
        return reader(cursor)


@cache
def _no_trajectory(samples: int) -> NDArray[np.float32]:
    return np.empty((samples, 0), np.float32)


def _read_acquisition(cursor: Cursor) -> Acquisition:
    offset = cursor.take(_ACQUISITION_HEADER_BYTES, "acquisition header")
    header = AcquisitionHeader.from_buffer(cursor.slab, offset)  # type: ignore[arg-type]
    samples, channels, dimensions = header.number_of_samples, header.active_channels, header.trajectory_dimensions
    trajectory = cursor.array(FLOAT32, (samples, dimensions), "trajectory") if dimensions else None
    if header.flags & _COMPRESSED:
        return Acquisition(header, _read_compressed(cursor, header), trajectory)
    return Acquisition(header, cursor.array(COMPLEX64, (channels, samples), "samples of an acquisition"), trajectory)


def _read_compressed(cursor: Cursor, header: AcquisitionHeader) -> NDArray[np.complex64]:
    count = 2 * header.number_of_samples * header.active_channels
    blob = cursor.blob(U32, "compressed samples", 8 * count + 2**16)
    cursor.make(4 * count, "decompressed samples")
    decompress = decompress_nhlbi if header.flags & _NHLBI_FLAG else decompress_zfp
    values = decompress(blob, count)
    header.flags &= ~(_NHLBI_FLAG | _ZFP_FLAG)
    return values.view(np.complex64).reshape(header.active_channels, header.number_of_samples)


def _read_image(cursor: Cursor) -> Image:
    offset = cursor.take(_IMAGE_HEADER_BYTES, "image header")
    header = ImageHeader.from_buffer_copy(cursor.slab[offset : offset + _IMAGE_HEADER_BYTES].tobytes())
    attributes = cursor.blob(U64, "image attributes", cursor.limits.text).rstrip(b"\0")
    cursor.make(_META_BYTES * len(attributes), "meta attributes")
    dtype = IMAGE_DTYPES.get(header.data_type)
    if dtype is None:
        raise ProtocolError(f"image has data type {header.data_type}", accepted=f"{sorted(IMAGE_DTYPES)}")
    x, y, z = header.matrix_size
    data = cursor.array(dtype, (header.channels, z, y, x), "pixels of an image")
    return make_image(data, header, _read_meta(attributes))


def _read_meta(xml: bytes) -> ismrmrd.Meta:
    if b"<!DOCTYPE" in xml:
        raise ProtocolError("meta attributes with a DOCTYPE are not accepted")
    try:
        return ismrmrd.Meta.deserialize(xml.decode("utf-8", "replace"))
    except (AssertionError, ParseError) as error:
        raise ProtocolError("meta attributes are not MRD meta XML") from error


def _read_dependency(cursor: Cursor) -> DependencyReport:
    meta = _read_meta(cursor.blob(U64, "dependency report", cursor.limits.text).rstrip(b"\0"))
    return DependencyReport({name: str(value) for name, value in meta.items()})


def _read_config_file(cursor: Cursor) -> ConfigFile:
    offset = cursor.take(_CONFIG_FILE_BYTES, "configuration name")
    raw = cursor.slab[offset : offset + _CONFIG_FILE_BYTES].tobytes()
    name, separator, _ = raw.partition(b"\0")
    if not separator:
        raise ProtocolError(f"configuration name is not NUL-terminated within {_CONFIG_FILE_BYTES} bytes")
    return ConfigFile(name.decode("utf-8", "replace"))


def _read_string(cursor: Cursor, what: str) -> tuple[bytes, bool]:
    raw = cursor.blob(U32, what, cursor.limits.text)
    return raw.rstrip(b"\0"), raw.endswith(b"\0")


def _read_text(cursor: Cursor) -> Text:
    raw, terminated = _read_string(cursor, "text")
    return Text(raw.decode("utf-8", "replace"), terminated)


def _read_query(cursor: Cursor) -> Query:
    reserved, correlation_id = cursor.unpack(_QUERY, "query")
    if reserved:
        raise ProtocolError(f"query has {reserved} in its reserved bytes", accepted="0")
    question = cursor.blob(U64, "query", cursor.limits.text)
    return Query(question.rstrip(b"\0").decode("utf-8", "replace"), correlation_id)


def _read_response(cursor: Cursor) -> Response:
    (correlation_id,) = cursor.unpack(U64, "response")
    return Response(cursor.blob(U64, "response", cursor.limits.text).decode("utf-8", "replace"), correlation_id)


def _read_error(cursor: Cursor) -> ErrorReport:
    return ErrorReport(cursor.blob(U64, "error report", cursor.limits.text).decode("utf-8", "replace"))


def _read_dicom(cursor: Cursor) -> DicomFile:
    dicom = cursor.blob(U32, "DICOM file", cursor.limits.message)
    name = cursor.blob(U64, "name of a DICOM file", cursor.limits.text)
    return DicomFile(dicom, name, cursor.blob(U64, "attributes of a DICOM file", cursor.limits.text))


def _read_feedback(cursor: Cursor) -> Feedback:
    name = cursor.blob(U32, "name of a feedback", cursor.limits.text).rstrip(b"\0")
    return Feedback(name.decode("utf-8", "replace"), cursor.blob(U32, "data of a feedback", cursor.limits.message))


_READERS: dict[int, Callable[[Cursor], Message]] = {
    MessageId.CONFIG_FILE: _read_config_file,
    MessageId.CONFIG_SCRIPT: lambda cursor: ConfigScript(*_read_string(cursor, "configuration")),
    MessageId.HEADER: lambda cursor: Header(*_read_string(cursor, "MRD header")),
    MessageId.CLOSE: lambda _cursor: Close(),
    MessageId.TEXT: _read_text,
    MessageId.QUERY: _read_query,
    MessageId.RESPONSE: _read_response,
    MessageId.ERROR: _read_error,
    MessageId.ACQUISITION: _read_acquisition,
    MessageId.DICOM: _read_dicom,
    MessageId.DEPENDENCY: _read_dependency,
    MessageId.IMAGE: _read_image,
    MessageId.RECON_DATA: read_recon_data,
    MessageId.IMAGE_ARRAY: read_image_array,
    MessageId.WAVEFORM: read_waveform,
    MessageId.BUCKET: read_bucket,
    MessageId.FEEDBACK: _read_feedback,
}
