"""The command line, the replay client, the demo, evaluation."""
