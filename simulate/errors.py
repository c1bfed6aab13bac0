"""What can be wrong with a scan that is to be simulated."""

from ..wire.errors import IsocenterError


class SimulationError(IsocenterError):
    """A scan cannot be simulated, or has nothing of what is to be changed in it."""

    kind = "simulation"
