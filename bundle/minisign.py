"""Keys and signatures in the formats of minisign (Ed25519): what its program signs is verified here, and the other way round.

Byte by byte, as https://jedisct1.github.io/minisign has them; every line is base64::

    public key    "Ed"  number[8]  key[32]
    signature     "Ed" or "ED"  number[8]  signature[64]
    secret key    "Ed"  two zeros  "B2"  salt[32] limits[16]  number[8] seed[32] key[32]  checksum[32]

"Ed" signs the message itself, as old versions do, "ED" its BLAKE2b-512. A second signature is that of the first one and the
*trusted comment*, which so cannot be exchanged. The checksum is BLAKE2b-256 of "Ed" and what is secret. The number only tells
which key to try: it is chosen at random and proves nothing.
"""

import base64
import binascii
import hashlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ..wire.errors import FileError
from ..wire.plain_files import read_plain
from .manifest import BundleError

_LEGACY, _HASHED, _NO_PASSWORD, _CHECKSUM = b"Ed", b"ED", b"\0\0", b"B2"
_ID, _KEY, _SIGNATURE = 8, 32, 64
_KDF_BYTES, _CHECKSUM_BYTES = 32 + 8 + 8, 32
_COMMENT, _TRUSTED_COMMENT = "untrusted comment: ", "trusted comment: "


class SignatureError(BundleError):
    """A key or a signature cannot be read, or a signature is not that of what was signed."""

    kind = "signature"


@dataclass(frozen=True)
class PublicKey:
    """A key that tells whether somebody signed something."""

    number: bytes
    key: bytes

    @classmethod
    def parse(cls, text: str) -> "PublicKey":
        """Read a key: the line of base64, or the file with a comment above it.

        Raises
        ------
        SignatureError
            It is no public key of minisign.
        """
        lines = text.strip().splitlines()
        content = _decode(lines[-1]) if lines else b""
        if len(content) != 2 + _ID + _KEY or content[:2] != _LEGACY:
            raise SignatureError(
                "this is no public key of minisign", accepted="a line that begins with RW, or its file"
            )
        return cls(content[2 : 2 + _ID], content[2 + _ID :])

    def __str__(self) -> str:
        """Its number, as minisign prints it."""
        return self.number[::-1].hex().upper()

    def line(self) -> str:
        """Return the line of base64 for settings."""
        return _encode(_LEGACY + self.number + self.key)

    def verify(self, message: bytes, signature: "Signature") -> None:
        """Check that somebody with the secret half signed this message, and the trusted comment.

        Raises
        ------
        SignatureError
            Nobody did.
        """
        signed = message if signature.algorithm == _LEGACY else hashlib.blake2b(message).digest()
        key = Ed25519PublicKey.from_public_bytes(self.key)
        try:
            key.verify(signature.value, signed)
            key.verify(signature.of_comment, signature.value + signature.comment.encode())
        except InvalidSignature as error:
            raise SignatureError(f"the signature by key {self} is not that of this manifest") from error


@dataclass(frozen=True)
class Signature:
    """What is in a file ``*.minisig``."""

    algorithm: bytes
    number: bytes
    value: bytes
    comment: str
    of_comment: bytes

    @property
    def signer(self) -> str:
        """Number of the key, as minisign prints it."""
        return self.number[::-1].hex().upper()

    @classmethod
    def parse(cls, content: bytes) -> "Signature":
        """Read a signature.

        Raises
        ------
        SignatureError
            It is no signature of minisign.
        """
        try:
            _, signature, comment, of_comment = content.decode("utf-8").rstrip("\r\n").split("\n")
        except ValueError as error:
            raise SignatureError("this is no signature of minisign") from error
        packed, last = _decode(signature.rstrip("\r")), _decode(of_comment.rstrip("\r"))
        algorithm, number, value = packed[:2], packed[2 : 2 + _ID], packed[2 + _ID :]
        known = algorithm in (_LEGACY, _HASHED) and len(value) == len(last) == _SIGNATURE
        if not known or not comment.startswith(_TRUSTED_COMMENT):
            raise SignatureError("this is no signature of minisign")
        return cls(algorithm, number, value, comment.removeprefix(_TRUSTED_COMMENT).rstrip("\r"), last)


@dataclass(frozen=True, repr=False)
class SecretKey:
    """A key that signs."""

    number: bytes
    seed: bytes

    @classmethod
    def generate(cls) -> "SecretKey":
        """Make a new key."""
        return cls(secrets.token_bytes(_ID), secrets.token_bytes(_KEY))

    @classmethod
    def read(cls, path: Path) -> "SecretKey":
        """Read a key's file.

        Raises
        ------
        SignatureError
            It cannot be read, is no secret key of minisign, or is protected by a password.
        """
        try:
            lines = read_plain(path).decode().strip().splitlines()
        except FileError as error:
            raise SignatureError(f"key {error.what}", accepted=error.accepted) from error
        except UnicodeDecodeError as error:
            raise SignatureError(f"{path} is no secret key of minisign") from error
        content = _decode(lines[-1]) if lines else b""
        start = 2 + 2 + 2 + _KDF_BYTES
        if (
            len(content) != start + _ID + 2 * _KEY + _CHECKSUM_BYTES
            or content[:2] != _LEGACY
            or content[4:6] != _CHECKSUM
        ):
            raise SignatureError(f"{path} is no secret key of minisign")
        if content[2:4] != _NO_PASSWORD:
            raise SignatureError(
                f"key {path} is protected by a password; sign with minisign itself: minisign -S -s {path} -m model.yaml"
            )
        key = cls(content[start : start + _ID], content[start + _ID : start + _ID + _KEY])
        if content[start:] not in (key._secret() + key._checksum(), key._secret() + bytes(_CHECKSUM_BYTES)):
            raise SignatureError(f"{path} is damaged")
        return key

    def write(self, path: Path) -> None:
        """Write the key to a new file that only its owner may read.

        Raises
        ------
        SignatureError
            There is such a file, or it cannot be written.
        """
        text = f"{_COMMENT}minisign secret key {self.public}\n{_encode(self._pack())}\n"
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise SignatureError(f"key {path} cannot be written: {error.strerror}") from error

    @property
    def public(self) -> PublicKey:
        """The half that verifies."""
        return PublicKey(self.number, self._signer().public_key().public_bytes_raw())

    def sign(self, message: bytes, comment: str = "") -> str:
        """Return the text of a file ``*.minisig``.

        Parameters
        ----------
        message
            What is signed.
        comment
            What the signature vouches for as well; the time by default.
        """
        comment = comment or f"timestamp:{int(time.time())}"
        signer = self._signer()
        value = signer.sign(hashlib.blake2b(message).digest())
        lines = (
            f"{_COMMENT}signature by key {self.public}",
            _encode(_HASHED + self.number + value),
            f"{_TRUSTED_COMMENT}{comment}",
            _encode(signer.sign(value + comment.encode())),
        )
        return "\n".join(lines) + "\n"

    def _signer(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    def _secret(self) -> bytes:
        return self.number + self.seed + self.public.key

    def _checksum(self) -> bytes:
        return hashlib.blake2b(_LEGACY + self._secret(), digest_size=_CHECKSUM_BYTES).digest()

    def _pack(self) -> bytes:
        return _LEGACY + _NO_PASSWORD + _CHECKSUM + bytes(_KDF_BYTES) + self._secret() + self._checksum()


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _decode(line: str) -> bytes:
    try:
        return base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        return b""
