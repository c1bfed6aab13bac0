"""The errors of the project, with one base class.

IsocenterError
├── HeaderError        the MRD header cannot be used
├── DataError          measured data contradicts the header or itself
├── OptionError        a gadget's option has a wrong name or value
├── PipelineError      a pipeline cannot be found, read or run
│   └── NoCounterpartError                                          (pipelines)
├── ProtocolError      bytes that are no message, or a message at the wrong time
│   ├── UnknownMessageError
│   └── TruncatedError
├── FileError          a file of a scan cannot be read or used
├── MissingExtraError  a package is not installed that the task needs
├── BundleError        a bundle is missing, damaged or not what it was  (bundle)
│   ├── SignatureError a key or a signature is not what it must be  (bundle)
│   └── NothingToGainError                                          (engine)
├── EngineError        a job cannot be taken or finished                (engine)
│   └── DeviceLostError
├── SettingsError      the settings cannot be read                      (service)
├── ExternalError      another program cannot be reached, or failed     (service)
├── ClientError        a server cannot be reached, or ended too soon    (commands)
├── ReplayError        the options of a replay do not fit together      (commands)
├── PrepareError       bundles that come with Isocenter are not built   (commands)
├── ExportError        a model file cannot be written                   (export)
├── CheckpointError    weights cannot be read                           (export)
├── SimulationError    a scan cannot be simulated as it was asked for   (simulate)
├── SamplingError      a sampling pattern cannot be drawn               (simulate)
├── SourceError        data to train on cannot be fetched or read       (training)
└── RecipeError        a recipe cannot be trained                       (training)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


class IsocenterError(Exception):
    """What was wrong, where, and what is accepted: one sentence that is safe to send to the scanner.

    Parameters
    ----------
    what
        What was wrong.
    where
        In which part of the input, such as ``gadget 'scale', option 'factor'``.
    accepted
        What would have been right.
    kind
        A short name for faults of this sort, by which they are counted and told apart; that of the class by default.
    """

    kind: str = "error"

    def __init__(self, what: str, *, where: str = "", accepted: str = "", kind: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.accepted = accepted
        self.kind = kind or type(self).kind

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; accepted: {self.accepted}" if self.accepted else text

    def __reduce__(self) -> tuple[object, ...]:
        # devices of other hosts raise these across processes
        return _rebuild, (type(self), self.what, self.where, self.accepted, self.kind)


def _rebuild(cls: type[IsocenterError], what: str, where: str, accepted: str, kind: str) -> IsocenterError:
    return cls(what, where=where, accepted=accepted, kind=kind)


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which names come nearest to one that is not known, such as `` (nearest: 'sense')``; empty if none comes near."""
    spelt = {each.lower(): each for each in known}
    near = get_close_matches(name[:200].lower(), spelt, n=3, cutoff=0.6)
    return f" (nearest: {', '.join(repr(spelt[each]) for each in near)})" if near else ""


class HeaderError(IsocenterError):
    """The MRD header is missing, is not MRD XML, or describes a scan that cannot be reconstructed."""

    kind = "header"


class OptionError(IsocenterError):
    """A gadget was given an option that it does not have, or a value that it does not accept."""

    kind = "option"


class DataError(IsocenterError):
    """Measured data contradicts the MRD header or the data before it."""

    kind = "data"


class PipelineError(IsocenterError):
    """A pipeline cannot be found, read, or run here."""

    kind = "pipeline"


class FileError(IsocenterError):
    """A file of a scan, MRD or another, cannot be read, or not be used for what is wanted."""

    kind = "file"


class MissingExtraError(IsocenterError):
    """A task needs a package that an extra of the installation brings, and it is not installed."""

    kind = "extra"


@dataclass(frozen=True)
class Limits:
    """The longest lengths that are accepted, in bytes; they are checked before memory is taken."""

    text: int = 16 * 2**20
    message: int = 4 * 2**30


class ProtocolError(IsocenterError):
    """Bytes that are no message of the protocol, or exceed the limits, or a message that may not come now."""

    kind = "protocol"


class UnknownMessageError(ProtocolError):
    """A message id that this end does not read."""


class TruncatedError(ProtocolError):
    """The stream ended inside a message."""
