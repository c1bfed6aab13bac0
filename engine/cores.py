"""How many cores are free for a job on the CPU.

OpenMP divides every operation evenly among its threads and waits for the last one. Where another program has one of the cores,
that one waits for its turn again and again: a reconstruction of a thousand small operations takes up to twenty times as long
with as many threads as cores, and no more than twice as long with one thread fewer.
"""

import math
import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_LOAD = Path("/proc/loadavg")
_WINDOW_SECONDS = 0.1
"""The kernel counts in hundredths of a second: over less, its figures say little."""
_SPARE = 0.25
"""Other programs may use this much of a core before it counts as taken."""


class Cores:
    """Looks at how much of the processor other programs use. Where Linux does not say, all cores are taken for free.

    Parameters
    ----------
    count
        How many there are to use.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._before = self._sample()
        self._others = 0.0

    def free(self) -> int:
        """Return how many are free: less what others used since it was last asked, if they want it still; at least one."""
        now = self._sample()
        seconds = now[0] - self._before[0]
        if seconds >= _WINDOW_SECONDS:
            self._others = max(0.0, (now[1] - self._before[1]) / seconds)
            self._before = now
        taken = min(self._others, self._waiting()) if self._others > _SPARE else 0.0
        return max(1, min(self._count, math.ceil(self._count - taken - _SPARE)))

    @staticmethod
    def _sample() -> tuple[float, float]:
        """Return the time, and for how many seconds other programs have used cores so far."""
        try:
            with _STAT.open(encoding="ascii") as file:
                user, nice, system, _idle, _iowait, irq, softirq = map(int, file.readline().split()[1:8])
        except (OSError, ValueError):
            return time.monotonic(), 0.0
        everybody = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), everybody - time.process_time()

    @staticmethod
    def _waiting() -> float:
        """Return how many threads besides this one run or want to: a client that has sent its scan wants nothing any more."""
        try:
            running = _LOAD.read_text(encoding="ascii").split()[3].partition("/")[0]
            return float(int(running) - 1)
        except (OSError, ValueError, IndexError):
            return 0.0
