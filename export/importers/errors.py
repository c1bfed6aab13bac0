"""What is said about checkpoints that cannot be used."""

from ...wire.errors import IsocenterError


class CheckpointError(IsocenterError):
    """A checkpoint is damaged, untrusted, or does not belong to the network."""

    kind = "checkpoint"
