"""The running service: server, sessions, transport, other programs as steps, settings."""
