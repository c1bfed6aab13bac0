"""What options of gadgets mean, by the docstring."""

import inspect
import re
from collections.abc import Callable
from typing import Any


def as_text(value: object) -> str:
    """Write the value of an option as pipelines and clients do."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def meanings(documented: Callable[..., Any], section: str = "Parameters") -> dict[str, str]:
    """Return what a section of a NumPy docstring says of each of its names, on one line."""
    _, _, text = (inspect.getdoc(documented) or "").partition(f"{section}\n{'-' * len(section)}\n")
    text = re.split(r"\n\n\w+\n-+\n", text)[0]
    found: dict[str, str] = {}
    for names, said in re.findall(r"^(\w.*)\n((?:[ \t]+.*(?:\n|$)|\n)*)", text, re.MULTILINE):
        meaning = " ".join(said.split()).replace("``", "")
        found |= dict.fromkeys((name.strip() for name in names.partition(":")[0].split(",")), meaning)
    return found
