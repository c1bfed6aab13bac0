"""Phases times faults: one case, and what is wrong with its outcome."""

from .faults import FAULTS, Expect, Fault
from .house import PATIENCE, fingerprint
from .peer import INTERNAL, Peer
from .phases import PARAMETERS, PHASES, Phase, long_scan, small_scan

CASES = [(phase, fault) for fault in FAULTS for phase in PHASES if FAULTS[fault].fits(PHASES[phase])]
_SMALL_BUFFER = 4096


def expected(phase: Phase, fault: Fault) -> Expect:
    """What must become of a session: what comes after CLOSE harms nobody, and who reads nothing cannot be told."""
    if fault.expect is Expect.GONE:
        return Expect.GONE
    if phase.long:
        return Expect.ENDED
    return Expect.SERVED if phase.part == "closed" else fault.expect


def run_case(house, phase_name: str, fault_name: str, seed: int = 0) -> str:
    """Bring a peer to a phase, let it do something wrong, and say what is wrong with the answer; empty if all is well.

    Parameters
    ----------
    house
        Where to connect, and what the peer's scan looks like where nothing goes wrong.
    """
    phase, fault = PHASES[phase_name], FAULTS[fault_name]
    scan = long_scan() if phase.long else small_scan()
    with house.connect(_SMALL_BUFFER if phase.long else None) as sock:
        peer = Peer(sock, scan, parameters=PARAMETERS if phase.parameters else None, seed=seed)
        phase.bring(peer)
        fault.act(peer)
        if fault.expect is Expect.GONE:
            return ""
        if not fault.holds:
            peer.end()
        answer = peer.listen(seconds=PATIENCE)
    return verdict(expected(phase, fault), answer, house.small)


def verdict(expect: Expect, answer, alone) -> str:
    if answer.ended.startswith("nothing"):
        return f"the session does not end: {answer.ended}"
    if INTERNAL.search(answer.said):
        return f"a message shows an internal error: {answer.said!r}"
    if expect is Expect.ENDED:
        return ""
    if not answer.closed:
        return f"no CLOSE came ({answer.ended}, said {answer.said!r})"
    if expect is Expect.TOLD and not answer.is_told:
        return f"the client is not told; {len(answer.images)} images, said {answer.said!r}"
    if expect is Expect.SERVED and fingerprint(answer.images) != alone:
        return f"the images are not those of the scan alone; {len(answer.images)} images, said {answer.said!r}"
    return ""
