"""The running service: wire protocol, sessions, server, engine, replay client, command line."""

import os

# GNU's OpenMP reads this when torch is first imported. Threads that wait for one another spin for milliseconds by default; where
# another process has one of the cores, they burn the time of the thread they wait for, and all takes up to 20 times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
