"""The running service: wire protocol, sessions, server, engine, replay client, command line."""
