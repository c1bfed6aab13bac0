"""What settings take: each type takes a value for what it is, or refuses it.

Pydantic alone would take ``yes`` for the number 1, the number 10 for the network 0.0.0.10, and an empty text for the folder in
which the program was started.
"""

import ipaddress
import os
import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, Strict, WithJsonSchema

from ..wire.home import named_folder

MIB = 2**20
_MOST_BYTES = 10**15
_MOST_SECONDS = 10**9
_MOST_DAYS = 10**5
_MOST_SLOTS = 10**5
_ADDRESS = re.compile(r"([^:\s]+|\[[^\]\s]+\]):([0-9]{1,5})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _words(text: str) -> WithJsonSchema:
    """What readers are told of a type."""
    return WithJsonSchema({"description": text})


def _folder(value: object) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise ValueError("it is no text")
    return named_folder(os.fsdecode(value))


def _text(value: str) -> str:
    value = value.strip()
    if not value:
        raise ValueError("it is empty")
    if _CONTROL.search(value):
        raise ValueError("it has control characters")
    return value


def _address(value: str) -> str:
    found = _ADDRESS.fullmatch(value)
    if not found or not 1 <= int(found[2]) <= 65535:
        raise ValueError("it is no address and port")
    return value


def _network(value: object) -> IPv4Network | IPv6Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        raise ValueError("it is no text")
    try:
        return ipaddress.ip_network(value.strip())
    except ValueError:
        pass
    try:
        whole = ipaddress.ip_network(value.strip(), strict=False)
    except ValueError:
        raise ValueError("it is no address or network") from None
    raise ValueError(f"it is an address in the network {whole}")


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("it is no number")
    return value


_Number = BeforeValidator(_number)
Folder = Annotated[Path, BeforeValidator(_folder), _words("folder")]
Text = Annotated[str, Strict(), AfterValidator(_text)]
Host = Annotated[Text, _words("address or name of this host; 0.0.0.0 for every address")]
Port = Annotated[int, Field(ge=0, le=65535), _Number]
Device = Annotated[Text, _words("auto, cpu, cuda, cuda:1 or others, or several separated by commas")]
Address = Annotated[Text, AfterValidator(_address), _words("host:port, such as localhost:9003")]
Names = Annotated[dict[Text, Text], _words("names with a text each; a number in quotes is a text")]
Network = Annotated[
    IPv4Network | IPv6Network, BeforeValidator(_network), _words("address or network such as 10.1.2.0/24")
]
Key = Annotated[str, Strict(), Field(min_length=1), _words("public key of minisign, or its file")]
Truth = Annotated[bool, Strict()]
Bytes = Annotated[int, Field(ge=0, le=_MOST_BYTES), _Number]
Megabytes = Annotated[int, Field(ge=MIB, le=_MOST_BYTES), _Number]
Kilobytes = Annotated[int, Field(ge=1024, le=_MOST_BYTES), _Number]
Seconds = Annotated[float, Field(gt=0, le=_MOST_SECONDS), _Number]
Days = Annotated[float, Field(ge=0, le=_MOST_DAYS), _Number]
Slots = Annotated[int, Field(ge=1, le=_MOST_SLOTS), _Number]
Reserved = Annotated[int, Field(ge=0, le=_MOST_SLOTS), _Number]
