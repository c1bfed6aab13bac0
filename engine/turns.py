"""Whose turn it is: the jobs that wait, and the device seconds that their scans have had.

Scans share devices by time, not by number of jobs: a job of a volume may take a thousand times as long as one of a slice. So each
scan has an account of the device seconds that its jobs took, and the scan that has had least goes next; first of all the one that
has fewest runs under way, as these are accounted for when they end. Scans that have had the same take turns. A job that runs is
not interrupted: whoever comes waits for it to end, and then goes before its scan until both have had the same.

A scan that comes anew begins with what the least of the others has had: it owes nothing for the time before, and is owed nothing.
The same goes for a scan that had nothing to do for a while, unless it has had more than that. Accounts of scans that are gone are
forgotten once nobody has had less.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .events import Job


class Turns(NamedTuple):
    """The jobs that wait. Like all that the machine knows, it is a value.

    Attributes
    ----------
    front
        Jobs that were put back, which go before all others.
    rows
        The other jobs, by scan; of scans that have had the same, the first one goes first.
    had
        Device seconds by scan, compared with one another only.
    """

    front: tuple[Job, ...] = ()
    rows: Mapping[str, tuple[Job, ...]] = {}
    had: Mapping[str, float] = {}

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs, in their order within each scan."""
        return (*self.front, *(job for row in self.rows.values() for job in row))

    def order(self, running: Counter[str]) -> list[Job]:
        """Return the jobs as their turns come, where scans have so many runs under way."""
        scans = sorted(self.rows, key=lambda scan: (running[scan], self.had.get(scan, 0.0)))
        return [*self.front, *(job for scan in scans for job in self.rows[scan])]

    def scans_before(self, number: int, running: Counter[str]) -> int:
        """Return how many other scans have a job that runs, or one whose turn comes before that of this one."""
        before = {scan for scan, runs in running.items() if runs}
        for job in self.order(running):
            if job.id == number:
                return len(before - {job.scan, ""})
            before.add(job.scan)
        return 0

    def add(self, job: Job) -> "Turns":
        """Append a job to its row, before those that go last unless it does; an urgent one goes before all that are not."""
        row = self.rows.get(job.scan, ())
        place = len(row) if job.last else sum(not other.last and (other.urgent or not job.urgent) for other in row)
        return self._replace(rows={**self.rows, job.scan: (*row[:place], job, *row[place:])})

    def put_back(self, jobs: Sequence[Job]) -> "Turns":
        """Let jobs wait again, before all others."""
        return self._replace(front=(*jobs, *self.front))

    def without(self, job: Job) -> "Turns":
        """Take a job out."""
        if job in self.front:
            return self._replace(front=tuple([other for other in self.front if other != job]))
        rows = dict(self.rows)
        rows[job.scan] = tuple([other for other in rows[job.scan] if other != job])
        if not rows[job.scan]:
            del rows[job.scan]
        return self._replace(rows=rows)

    def take(self, job: Job) -> "Turns":
        """Take a job out as it runs: its scan is the last of those that have had the same."""
        taken = self.without(job)
        others = {scan: row for scan, row in taken.rows.items() if scan != job.scan}
        return taken._replace(rows=others | {scan: row for scan, row in taken.rows.items() if scan == job.scan})

    def charge(self, jobs: Sequence[Job], seconds: float) -> "Turns":
        """Account for a run, to each scan by the entries that it had of the batch."""
        entries = sum(job.entries for job in jobs)
        had = dict(self.had)
        for job in jobs:
            had[job.scan] = had.get(job.scan, 0.0) + seconds * job.entries / entries
        return self._replace(had=had)

    def settle(self, running: Iterable[str]) -> "Turns":
        """Open the accounts of scans that have come, and forget those that make no difference any more."""
        present = {*self.rows, *(job.scan for job in self.front), *running}
        least = min((self.had[scan] for scan in present if scan in self.had), default=0.0)
        had = {scan: seconds for scan, seconds in self.had.items() if scan in present or (present and seconds > least)}
        return self._replace(had=dict.fromkeys(present, least) | had)
