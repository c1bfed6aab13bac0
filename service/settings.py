"""The service's settings: one typed object, from ``isocenter.yaml`` and the command line."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from ..bundle.manifest import RuntimeChoice
from ..wire import entries, extras
from ..wire.errors import IsocenterError, Limits
from ..wire.home import default_home
from .values import (
    MIB,
    Address,
    Bytes,
    Days,
    Device,
    Folder,
    Host,
    Key,
    Kilobytes,
    Megabytes,
    Names,
    Network,
    Port,
    Reserved,
    Seconds,
    Slots,
    Text,
    Truth,
)

if TYPE_CHECKING:
    from .spooled import Retention

_FORMER = {
    "queue_bytes": ("", "is not used any more: a quarter of scan_bytes takes its place"),
    "network": ("default_bundle", "is called default_bundle now"),
}
"""Settings of earlier versions: the name for what they set, where something does, and what is said of them."""


class SettingsError(IsocenterError):
    """The settings cannot be read."""

    kind = "settings"


class Settings(BaseModel):
    """Settings of ``isocenter serve``.

    Attributes
    ----------
    host
        Address to listen on: ``localhost`` is this machine, IPv4 and IPv6; ``0.0.0.0`` every address.
    port
        Port to listen on; 9012 beside a Gadgetron, 0 for a free one.
    home
        Holds ``bundles``, ``noise`` and ``pipelines``, unless they are set on their own.
    pipelines, bundles
        Folders searched by name, before the shipped ones.
    keys
        Public keys of minisign, as lines or files: then only bundles that one of them has signed are used, and those that this
        host has made.
    default_bundle
        Bundle for pipelines that name none, such as ``network.xml``. It should have passed the gate (``isocenter evaluate
        --gate``); the log warns at the start where it has not.
    default_pipeline
        Used for configuration names that are not known; none refuses them.
    aliases
        Other names of pipelines, such as ``openrecon: sense.xml``.
    device
        Where bundles run: ``auto`` for every GPU there is or else the CPU, or names separated by commas (``cuda:0,cuda:1``).
    runtime
        What runs them: ``auto`` for the fastest of each bundle, as measured here, or one of them.
    deadline
        Seconds that an image may be computed before the fallback makes it, or ten times what was measured for its size, if
        that is longer. Waiting for other scans does not count.
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
        Folder in which scans are kept: every byte received, and the images; none keeps nothing.
    spool_queue_bytes
        Bytes of a file that may wait for the spool's disk. Where it falls behind further, the scan goes on and is not kept.
    spool_days
        Days that a spooled scan is kept whose images were sent, or made again; None is for ever.
    spool_unfinished_days
        Days that any other spooled scan is kept; None is for ever.
    spool_bytes
        Bytes of all spooled scans, beyond which the oldest go whose images were sent, or made again; None is no limit.
    recover_at_start
        Whether spooled scans that are unfinished or failed are reconstructed when the service starts, beside its work.
    max_connections
        Scans at once; further ones are refused with a message.
    allow
        Addresses and networks (``10.1.2.0/24``) that may connect; none means all.
    max_per_address
        Scans of one address at once; none means as many as there are slots.
    scanners
        Addresses and networks of scanners, for which ``allow`` and ``max_per_address`` do not hold.
    reserved_slots
        How many of ``max_connections`` are kept for the scanners.
    scan_bytes
        Bytes that a scan may hold; half of ``memory_bytes`` unless it is set. A quarter of it is for what waits to be processed
        and to be sent, where TCP holds the client back, and for one message; the rest for what is kept until more of the scan
        comes: blocks of k-space, calibration lines, noise. What does not fit is refused, which is said.
    memory_bytes
        The same of all scans together; three quarters of the host's memory unless it is set.
    handshake_timeout
        Seconds from connecting to the end of the MRD header, in all.
    idle_timeout
        Seconds without a readout or other data after it, whatever else comes.
    message_timeout
        Seconds that a message may be on its way once it has begun, and a second more for each megabyte.
    send_timeout
        Seconds in which a client must take a message, and a second more for each megabyte.
    drain_timeout
        Seconds that a client may go on sending after an error.
    program_timeout
        Seconds that an external program or FIRE module may keep a scan waiting, in all: while it takes no data, and from the
        last data on until it says CLOSE.
    shutdown_timeout
        Seconds that running scans get to finish on SIGTERM.
    max_text_bytes
        Longest configuration, header or text that is accepted from a peer.
    max_message_bytes
        Longest other message that is accepted from a peer.
    log_format
        ``text``, or ``json`` with one object a line.
    log_private
        Whether the log shows what comes from outside: names, texts of errors, and what programs, FIRE modules and libraries
        print. Patient data may be among it.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)
    _notes: tuple[str, ...] = PrivateAttr(())

    host: Host = "localhost"
    port: Port = 9002
    home: Folder = Field(default_factory=default_home)
    pipelines: tuple[Folder, ...] = ()
    bundles: tuple[Folder, ...] = ()
    keys: tuple[Key, ...] = ()
    default_bundle: Text | None = "ridge"
    default_pipeline: Text | None = None
    aliases: Names = {}
    device: Device = "auto"
    runtime: RuntimeChoice = "auto"
    deadline: Seconds = 60.0
    ray: Text | None = None
    gadgets: Names = {}
    handlers: tuple[Text, ...] = ()
    fire_modules: Names = {}
    python_path: tuple[Folder, ...] = ()
    connect: tuple[Address, ...] = ()
    spool: Folder | None = None
    spool_queue_bytes: Megabytes = 1024 * MIB
    spool_days: Days | None = None
    spool_unfinished_days: Days | None = None
    spool_bytes: Bytes | None = None
    recover_at_start: Truth = False
    max_connections: Slots = 32
    scan_bytes: Megabytes | None = None
    memory_bytes: Megabytes | None = None
    allow: tuple[Network, ...] = ()
    max_per_address: Slots | None = None
    scanners: tuple[Network, ...] = ()
    reserved_slots: Reserved = 0
    handshake_timeout: Seconds = 60.0
    idle_timeout: Seconds = 1800.0
    message_timeout: Seconds = 120.0
    send_timeout: Seconds = 120.0
    drain_timeout: Seconds = 30.0
    program_timeout: Seconds = 600.0
    shutdown_timeout: Seconds = 60.0
    max_text_bytes: Kilobytes = 4 * MIB
    max_message_bytes: Megabytes = 4096 * MIB
    log_format: Literal["text", "json"] = "text"
    log_private: Truth = False

    @model_validator(mode="wrap")
    @classmethod
    def _by_former_names(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Take settings of earlier versions for what they are now; the name of today holds where both are there."""
        former = {name: _FORMER[name] for name in values if name in _FORMER}
        renamed = {present: values[name] for name, (present, _) in former.items() if present}
        settings = validate(renamed | {name: value for name, value in values.items() if name not in former})
        settings._notes = tuple(f"the setting {name} {what}" for name, (_, what) in former.items())
        return settings

    @model_validator(mode="after")
    def _reserves_for_somebody(self) -> Self:
        if self.reserved_slots and not self.scanners:
            raise ValueError("reserved_slots needs the addresses of the scanners that they are for ('scanners')")
        if self.reserved_slots > self.max_connections:
            raise ValueError(f"reserved_slots must not exceed max_connections ({self.max_connections})")
        return self

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
    def retention(self) -> "Retention":
        """What the spool keeps."""
        from .spooled import Retention  # which imports what reads scans, and a service opens its port first

        return Retention(self.spool_days, self.spool_unfinished_days, self.spool_bytes)

    @property
    def memory(self) -> int:
        """Bytes that all scans together may hold."""
        return self.memory_bytes or 3 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4

    @property
    def scan_memory(self) -> tuple[int, int]:
        """Bytes of a scan that may wait, and that may be kept."""
        scan = min(self.scan_bytes or self.memory // 2, self.memory)
        return scan // 4, scan - scan // 4

    @property
    def limits(self) -> Limits:
        """Longest lengths accepted; a message may hold no more than may wait of a scan."""
        return Limits(text=self.max_text_bytes, message=min(self.max_message_bytes, self.scan_memory[0]))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said about the settings, once there is a log."""
        return self._notes


NEED_RESTART = frozenset(
    (
        "host",
        "port",
        "home",
        "bundles",
        "default_bundle",
        "device",
        "runtime",
        "deadline",
        "ray",
        "gadgets",
        "python_path",
        "keys",
        "memory_bytes",
        "recover_at_start",
        "log_format",
        "log_private",
        "spool",
        "spool_queue_bytes",
        "spool_days",
        "spool_unfinished_days",
        "spool_bytes",
    )
)
"""Settings that are read once, when the service starts."""


def reloaded(old: Settings, new: Settings) -> tuple[Settings, list[str], list[str]]:
    """Return the settings for scans to come, which of them changed, and which would have but need a restart."""
    changed = [name for name in Settings.model_fields if getattr(old, name) != getattr(new, name)]
    fixed = [name for name in changed if name in NEED_RESTART]
    kept = new.model_copy(update={name: getattr(old, name) for name in fixed})
    return kept, [name for name in changed if name not in fixed], fixed


def load_settings(path: Path | None, **overrides: object) -> Settings:
    """Read settings from a YAML file; overrides that are None do not count.

    Raises
    ------
    SettingsError
        The file cannot be read, or a setting is unknown or has a wrong value.
    """
    values = {} if path is None else entries.read_entries(path, "settings file", SettingsError)
    given = {name: value for name, value in overrides.items() if value is not None}
    content = {**values, **given}
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        found = entries.mistakes(error, Settings, content)
        sentences = dict.fromkeys(str(_problem(mistake, path, given)) for mistake in found)
        raise SettingsError("; also ".join(sentences)) from error


def _problem(mistake: entries.Mistake, path: Path | None, given: Collection[str]) -> SettingsError:
    """Say where the setting stands that a mistake is in: in the file, or among the options."""
    name, _, below = mistake.place.partition(".")
    file = f"settings file {path}" if path else "settings"
    stands = [f"option --{name.replace('_', '-')}", below] if name in given else [file, mistake.place]
    return SettingsError(mistake.what, where=": ".join(filter(None, stands)), accepted=mistake.accepted)


def accepted_by(name: str) -> str:
    """Say what a setting accepts."""
    return entries.accepted_by(Settings.model_fields[name])


def lacking_extras(settings: Settings) -> list[str]:
    """Say of each package that the settings need and that is not installed what brings it."""
    wanted = (
        ("ray", settings.ray is not None, "the setting 'ray'"),
        ("gadgetron", bool(settings.handlers), "the setting 'handlers'"),
        ("onnxruntime", settings.runtime in ("onnx", "tensorrt"), f"the setting 'runtime: {settings.runtime}'"),
    )
    return [
        extras.lacks(package, setting)
        for package, is_needed, setting in wanted
        if is_needed and not extras.is_installed(package)
    ]
