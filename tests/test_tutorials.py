"""Every tutorial does what it says: its blocks are run in their order, as a reader would type them.

``bash`` and ``python`` blocks are run, those with a ``title`` are written to the file that it names, and others are passed over.
The port that the pages name is replaced by a free one.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parent.parent / "docs" / "tutorials"
PORT = "9002"
_BLOCK = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<body>.*?)^```$', re.MULTILINE | re.DOTALL
)


def script_of(page: str, port: int) -> str:
    """What a reader of a page types into a shell."""
    lines = ["set -euo pipefail"]
    for number, block in enumerate(_BLOCK.finditer(page), 1):
        lines.append(f"echo '--- block {number}: {block['language']} {block['title'] or ''}' >&2")
        if block["title"]:
            lines.append(f"cat > {block['title']} <<'END OF FILE'\n{block['body']}END OF FILE")
        elif block["language"] == "python":
            lines.append(f"python - <<'END OF CODE'\n{block['body']}END OF CODE")
        elif block["language"] == "bash":
            lines.append(block["body"])
    return re.sub(rf"\b{PORT}\b", str(port), "\n".join(lines))


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def environment(bundles, tmp_path):
    """A reader's: a home that has the bundles, and the commands of this interpreter on the path."""
    home = tmp_path / "home" / ".isocenter"
    shutil.copytree(bundles, home / "bundles")
    own = {"HOME": str(home.parent), "TERM": "dumb", "PYTHONWARNINGS": "ignore"}
    kept = {name: value for name, value in os.environ.items() if name != "ISOCENTER_HOME"}
    return kept | own | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["physicist", "researcher", "site"])
def test_a_tutorial_does_what_it_says(name, environment, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    script = script_of((TUTORIALS / f"{name}.md").read_text(encoding="utf-8"), free_port())
    log = tmp_path / "log"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-c", script], cwd=work, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = shell.wait(850)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)  # services that a page has started and a failure has left
    assert status == 0, log.read_text(errors="replace")[-4000:]


def test_every_tutorial_is_tried():
    assert {path.stem for path in TUTORIALS.glob("*.md")} == {"physicist", "researcher", "site"}


def test_blocks_become_a_script():
    blocks = ('yaml title="a.yaml"\nport: 9002', "python\nprint(1)", "text\nnot run", "bash\nls")
    page = "# A page\n\n" + "\n\n".join(f"```{block}\n```" for block in blocks) + "\n"
    script = script_of(page, 4711)
    assert "cat > a.yaml <<'END OF FILE'\nport: 4711\nEND OF FILE" in script
    assert "python - <<'END OF CODE'\nprint(1)\nEND OF CODE" in script
    assert script.endswith("\nls\n")
    assert "not run" not in script
