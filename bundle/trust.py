"""Whose bundles are used: those of the keys that the settings name, and those that this host has made itself."""

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..wire.errors import FileError
from ..wire.plain_files import read_plain
from .files import read_regular
from .manifest import BundleError
from .minisign import PublicKey, SecretKey, Signature, SignatureError

_LONGEST_SIGNATURE = 8192
HOST_KEY = Path("keys") / "host.key"
"""In the home: what this host makes, it signs with this key."""


@dataclass(frozen=True)
class Trust:
    """Whose bundles are used.

    Parameters
    ----------
    keys
        Of those whose bundles are used; where there are none, everybody's are.
    own
        That of this host.
    """

    keys: tuple[PublicKey, ...] = ()
    own: PublicKey | None = None

    @classmethod
    def of(cls, home: Path, keys: Iterable[str] = ()) -> "Trust":
        """Trust these keys, given as lines of base64 or as files, and that of a home.

        Raises
        ------
        SignatureError
            One of them is no public key of minisign.
        """
        trusted = tuple(public_key(key) for key in keys)
        path = home / HOST_KEY
        if trusted and not path.exists():
            with suppress(SignatureError):  # where none can be made, nothing is made
                host_key(home)
        return cls(trusted, SecretKey.read(path).public if path.exists() else None)

    def signer(self, manifest: bytes, signature: Path) -> PublicKey | None:
        """Return the trusted key that signed a manifest; None where nobody did whom we know, and nobody has to.

        Parameters
        ----------
        manifest
            What ``model.yaml`` holds.
        signature
            File of its signature, which need not be there.

        Raises
        ------
        SignatureError
            The signature is not that of the manifest, or there is none by one of the keys, and there must be.
        """
        found = Signature.parse(read_regular(signature, _LONGEST_SIGNATURE)) if os.path.lexists(signature) else None
        known = (*self.keys, *((self.own,) if self.own else ()))
        for key in known:
            if found is not None and key.number == found.number:
                key.verify(manifest, found)
                return key
        if self.keys:
            how = "not signed" if found is None else f"signed by key {found.signer}"
            raise SignatureError(f"it is {how}", accepted=f"key {', '.join(map(str, self.keys))}")
        return None


EVERYBODY = Trust()
"""Every bundle is used, whoever made it."""


def host_key(home: Path) -> SecretKey:
    """Return the key with which this host signs what it makes, made when it is first needed.

    Raises
    ------
    SignatureError
        There is none and none can be made, or it cannot be read.
    """
    path = home / HOST_KEY
    if not path.exists():
        made = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            SecretKey.generate().write(made)
            with suppress(FileExistsError):  # whoever comes second takes that of who came first
                path.hardlink_to(made)
        except OSError as error:
            raise SignatureError(f"key {path} cannot be written: {error.strerror}") from error
        finally:
            made.unlink(missing_ok=True)
    return SecretKey.read(path)


def public_key(key: str) -> PublicKey:
    """Return a key that is given as its line or as its file.

    Raises
    ------
    SignatureError
        It is none.
    """
    try:
        path = Path(key).expanduser()
        return PublicKey.parse(read_plain(path).decode() if path.is_file() else key)
    except (BundleError, FileError, OSError, RuntimeError, ValueError) as error:
        raise SignatureError(f"key {key!r} is no public key of minisign", accepted="its line, or its file") from error
