"""How much of what the installed package offers has a known type: ``python -m tests.completeness FOLDER``, run by ``make types``.

``basedpyright --verifytypes`` looks at every public symbol of the package that lies in the folder, as a user's editor does: it
follows declarations only, so an attribute without one counts as ambiguous. Types of other packages are theirs to know.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

LEAST = 0.95
WORST = 20


def measure(folder: Path) -> dict:
    """What basedpyright reports of the package ``isocenter`` in a folder."""
    scripts = Path(sys.executable).parent
    result = subprocess.run(
        [scripts / "basedpyright", "--verifytypes", "isocenter", "--ignoreexternal", "--outputjson"],
        cwd=folder,  # else it reads the settings of the project that it is run in
        # it asks the first Python on the path where packages are
        env={**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder.resolve())},
        capture_output=True,
        text=True,
        check=False,  # it fails as soon as one symbol is not known
    )
    return json.loads(result.stdout)["typeCompleteness"]


def faults(report: dict) -> list[tuple[str, str]]:
    """Public symbols whose types are not known, with the reason, those first that make most others unknown."""
    unknown = [symbol for symbol in report["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    unknown.sort(key=lambda symbol: -symbol["referenceCount"])
    return [
        (each["name"], " ".join(each["diagnostics"][0]["message"].split())) for each in unknown if each["diagnostics"]
    ]


def main() -> int:
    """Print the figure and the worst symbols; 1 if too few are known."""
    report = measure(Path(sys.argv[1]))
    score, found = report["completenessScore"], faults(report)
    rooms = Counter(".".join(name.split(".")[:2]) for name, _ in found)
    for name, reason in found[:WORST]:
        print(f"{name}: {reason}")
    print(f"{len(found)} symbols are declared without a known type:", dict(rooms.most_common()))
    print(f"figure types_known {100 * score:.1f} % of {sum(report['exportedSymbolCounts'].values())}")
    return 0 if score >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
