"""Read the checkpoints of other programs into the networks."""
