"""Runs a FIRE module unchanged: ``python -m isocenter.service.fire PORT MODULE``, started by the service."""

import importlib
import json
import socket
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from ..flow.ledger import Ledger
from ..wire import Close, ConfigFile, ErrorReport, Header, Message, Text, encode
from ..wire.errors import HeaderError
from ..wire.header import parse_header
from ..wire.items import Acquisition, Image, Waveform
from .logs import trace
from .transport import Receiver, send_buffers

_WAITING_BYTES = 2**30
"""Of a scan that a module has not taken yet; then TCP holds the service back."""


class FireConnection:
    """What a FIRE module sees: an iterator over data that ends with None, and methods to send."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._messages = iter(Receiver(sock, account=Ledger(_WAITING_BYTES).account("for a module")))
        self._held: Message | None = None
        self._closed = False
        self.is_exhausted: bool = False
        self.savedata = False

    def opening(self) -> tuple[str, bytes, str | None]:
        """Read configuration name, MRD header and, if it comes, the JSON text."""
        config, header = next(self._messages), next(self._messages)
        if not isinstance(config, ConfigFile) or not isinstance(header, Header):
            raise TypeError("expected a configuration name and an MRD header")
        first = next(self._messages)
        if isinstance(first, Text):
            return config.name, header.xml, first.text
        self._held = first
        return config.name, header.xml, None

    def __iter__(self) -> Iterator[Any]:
        while not self.is_exhausted:
            yield self.next()

    def __next__(self) -> Any:
        return self.next()

    def next(self) -> Any:
        """Return the next acquisition, waveform, image or text; None at the end."""
        message, self._held = self._held or next(self._messages, Close()), None
        if isinstance(message, Close):
            self.is_exhausted = True
            return None
        return message.text if isinstance(message, Text) else message

    def send_image(self, images: Image | list[Image]) -> None:
        """Send one image or several."""
        for image in images if isinstance(images, list) else [images]:
            self._send(image)

    def send_acquisition(self, acquisition: Acquisition) -> None:
        """Send a readout."""
        self._send(acquisition)

    def send_waveform(self, waveform: Waveform) -> None:
        """Send a waveform."""
        self._send(waveform)

    def send_text(self, contents: str) -> None:
        """Send text for the user."""
        self._send(Text(contents))

    def send_logging(self, level: str, contents: str) -> None:
        """Send a line of log."""
        self.send_text(f"{level} {contents}")

    def send_close(self) -> None:
        """Say that nothing more will come."""
        if not self._closed:
            self._closed = True
            self._send(Close())

    def send_failure(self, error: BaseException) -> None:
        """Tell the service of what kind an error is, and where it was raised; its text may hold patient data."""
        self._send(ErrorReport(trace(error)))

    def _send(self, message: Message) -> None:
        send_buffers(self._socket, encode(message))


def _metadata(xml: bytes) -> Any:
    """Parse the header; modules get the text where that fails, as FIRE's server does it."""
    try:
        return parse_header(xml)
    except HeaderError:
        return xml.decode("utf-8", "replace")


def main(port: int, module: str) -> None:
    """Connect to the service and hand the scan to the module's ``process``."""
    with socket.create_connection(("localhost", port)) as sock:
        connection = FireConnection(sock)
        try:
            name, xml, text = connection.opening()
            config = json.loads(text) if text else name
            importlib.import_module(module).process(connection, config, _metadata(xml))
        except BaseException as error:  # noqa: BLE001 - the service says it, and the module ends
            traceback.print_exc()
            connection.send_failure(error)
            sys.exit(1)
        finally:
            connection.send_close()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
