"""Runs a program that does not outlive whoever started it: ``python guard.py PROGRAM ARGUMENT...``, in a group of its own.

Standard input is a pipe that whoever started it holds open. It ends when that process does, in whatever way, and then every
process of the group is killed. It imports little, so that it is up at once, and nothing that the program does can stop it.
"""

import os
import signal
import subprocess
import sys
import threading


def _kill_at_the_end() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def main(command: list[str]) -> int:
    """Run a command, and return its status as a shell has it."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # the program gets it as well, and may take a moment to end
    threading.Thread(target=_kill_at_the_end, daemon=True).start()
    status = subprocess.call(command, stdin=subprocess.DEVNULL)  # noqa: S603 - given by the service
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
