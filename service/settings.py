"""The service's settings: one typed object, from ``isocenter.yaml`` and the command line."""

import os
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..bundle.manifest import RuntimeChoice
from ..wire.errors import IsocenterError, Limits

MIB = 2**20


class SettingsError(IsocenterError):
    """The settings cannot be read."""

    kind = "settings"


def default_home() -> Path:
    """Folder for bundles, noise covariances and pipelines: ``ISOCENTER_HOME``, or ``~/.isocenter``."""
    return Path(os.environ.get("ISOCENTER_HOME", Path.home() / ".isocenter"))


class Settings(BaseModel):
    """Settings of ``isocenter serve``.

    Attributes
    ----------
    host, port
        Address to listen on; ``localhost`` listens on IPv4 and IPv6.
    home
        Holds ``bundles``, ``noise`` and ``pipelines``, unless they are set on their own.
    pipelines, bundles
        Folders searched by name, before the shipped ones.
    keys
        Public keys of minisign, as lines or files: then only bundles that one of them has signed are used, and those that this
        host has made.
    network
        Bundle for pipelines that name none, such as ``network.xml``.
    default_pipeline
        Used for configuration names that are not known; none refuses them.
    aliases
        Other names of pipelines, such as ``openrecon: sense.xml``.
    device, runtime
        Where and with what bundles run: ``auto`` for every GPU there is or else the CPU, or names separated by commas; the
        fastest runtime, or one of them.
    deadline
        Seconds that an image may take before the fallback makes it.
    ray
        Address of a Ray cluster whose devices run the bundles instead, such as ``auto``.
    gadgets
        Own gadgets that pipelines may use: name to ``module:function``. They run in the service's process.
    handlers
        ``module.target`` of Gadgetron Python gadgets that pipelines may start.
    fire_modules
        FIRE modules that may be named as configuration: name to importable module.
    python_path
        Folders in which the modules of gadgets, handlers and FIRE modules are found.
    connect
        ``host:port`` of external nodes that a pipeline sent over the wire may connect to. Pipelines on disk may connect anywhere.
    spool
        Folder in which every byte received is kept before it is processed; none keeps nothing.
    max_connections
        Scans at once; further ones are refused with a message.
    queue_bytes
        Bytes of a scan that may wait between reading, processing and writing, together; when they do, TCP holds the client back.
    scan_bytes
        Bytes of blocks of k-space that a scan may be filling at once; readouts of further ones are left out, which is said.
    memory_bytes
        The same of all scans, waiting or being filled; three quarters of the host's memory unless it is set.
    handshake_timeout, idle_timeout, send_timeout
        Seconds without a byte before the scan starts, during it, and while a client does not read.
    drain_timeout
        Seconds that a client may go on sending after an error.
    shutdown_timeout
        Seconds that running scans get to finish on SIGTERM.
    max_text_bytes, max_message_bytes
        Longest lengths accepted from a peer.
    log_format
        ``text``, or ``json`` with one object a line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "localhost"
    port: Annotated[int, Field(ge=0, le=65535)] = 9002
    home: Path = Field(default_factory=default_home)
    pipelines: tuple[Path, ...] = ()
    bundles: tuple[Path, ...] = ()
    keys: tuple[str, ...] = ()
    network: str | None = "modl-brain"
    default_pipeline: str | None = None
    aliases: dict[str, str] = {}
    device: str = "auto"
    runtime: RuntimeChoice = "auto"
    deadline: Annotated[float, Field(gt=0)] = 60.0
    ray: str | None = None
    gadgets: dict[str, str] = {}
    handlers: tuple[str, ...] = ()
    fire_modules: dict[str, str] = {}
    python_path: tuple[Path, ...] = ()
    connect: tuple[str, ...] = ()
    spool: Path | None = None
    max_connections: Annotated[int, Field(ge=1)] = 32
    queue_bytes: Annotated[int, Field(ge=MIB)] = 1024 * MIB
    scan_bytes: Annotated[int, Field(ge=MIB)] = 32 * 1024 * MIB
    memory_bytes: Annotated[int | None, Field(ge=MIB)] = None
    handshake_timeout: Annotated[float, Field(gt=0)] = 60.0
    idle_timeout: Annotated[float, Field(gt=0)] = 1800.0
    send_timeout: Annotated[float, Field(gt=0)] = 120.0
    drain_timeout: Annotated[float, Field(gt=0)] = 30.0
    shutdown_timeout: Annotated[float, Field(gt=0)] = 60.0
    max_text_bytes: Annotated[int, Field(ge=1024)] = 16 * MIB
    max_message_bytes: Annotated[int, Field(ge=MIB)] = 4096 * MIB
    log_format: Literal["text", "json"] = "text"

    @property
    def pipeline_folders(self) -> tuple[Path, ...]:
        """Folders of pipelines in the order of search, without the shipped ones."""
        return (*self.pipelines, self.home / "pipelines")

    @property
    def bundle_folders(self) -> tuple[Path, ...]:
        """Folders of bundles in the order of search."""
        return (*self.bundles, self.home / "bundles")

    @property
    def noise_folder(self) -> Path:
        """Where noise covariances are kept."""
        return self.home / "noise"

    @property
    def memory(self) -> int:
        """Bytes that all scans together may hold."""
        return self.memory_bytes or 3 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4

    @property
    def limits(self) -> Limits:
        """Longest lengths accepted."""
        return Limits(text=self.max_text_bytes, message=self.max_message_bytes)


def load_settings(path: Path | None, **overrides: object) -> Settings:
    """Read settings from a YAML file; overrides that are None do not count.

    Raises
    ------
    SettingsError
        The file cannot be read, or a setting is unknown or has a wrong value.
    """
    values: object = {}
    if path is not None:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SettingsError(f"settings file {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"settings file {path} must hold names and values")
    values = {**values, **{name: value for name, value in overrides.items() if value is not None}}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"settings: {problems}") from error
