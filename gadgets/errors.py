"""The errors a user can cause, with one base class.

IsocenterError
├── HeaderError      the MRD header cannot be used
├── OptionError      a gadget's option has a wrong name or value
└── DataError        measured data contradicts the header or itself
"""


class IsocenterError(Exception):
    """What was wrong, where, and what is accepted: one sentence that is safe to send to the scanner."""


class HeaderError(IsocenterError):
    """The MRD header is missing, is not MRD XML, or describes a scan that cannot be reconstructed."""


class OptionError(IsocenterError):
    """A gadget was given an option that it does not have, or a value that it does not accept."""


class DataError(IsocenterError):
    """Measured data contradicts the MRD header or the data before it."""
