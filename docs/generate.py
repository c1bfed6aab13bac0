"""Write the pages that are made from the code: ``python docs/generate.py``, as ``make docs`` does. A test finds old ones."""

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer.main
import yaml
from isocenter.commands.cli import app
from isocenter.gadgets import GADGETS, load
from isocenter.gadgets.gadget import Gadget
from isocenter.gadgets.options import as_text, meanings
from isocenter.pipelines import loader
from isocenter.pipelines.parameters import OF_THE_SERVICE, Parameter, parameters_of
from isocenter.service.settings import NEED_RESTART, Settings, accepted_by
from isocenter.wire.accepted import accepted

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from messages import messages  # noqa: E402

MADE = "<!-- Made from the code by docs/generate.py; change it there. -->\n\n"


def pages() -> dict[str, str]:
    """Return the text of every page that is made from the code, by its path in this folder."""
    made = {
        "reference/commands.md": commands(),
        "reference/gadgets.md": gadgets(),
        "reference/pipelines.md": pipelines(),
        "reference/settings.md": settings(),
        "troubleshooting.md": troubleshooting(),
    }
    return {name: MADE + re.sub(r"\n{3,}", "\n\n", _linked(text, name)).rstrip() + "\n" for name, text in made.items()}


def _linked(text: str, page: str) -> str:
    """Make links of the pages that the code names by their files."""
    return re.sub(r"`?\bdocs/([a-z-]+\.md)`?", lambda named: f"[{named[1]}]({'../' * page.count('/')}{named[1]})", text)


def table(*columns: str, rows: list[tuple[str, ...]]) -> str:
    """A table; nothing where there are no rows."""
    lines = [columns, ("---",) * len(columns), *rows] if rows else []
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(value: object) -> str:
    """A value as code."""
    text = str(value)
    return f"`{text}`" if text else "nothing"


def settings() -> str:
    """Every setting: what it accepts, its default, whether it needs a restart, and what it means."""
    means = meanings(Settings, "Attributes")
    rows = []
    for name, field in Settings.model_fields.items():
        kind = accepted_by(name)
        default = "`~/.isocenter`" if name == "home" else code(_yaml(field.default))
        rows.append((f"`{name}`", kind, default, "yes" if name in NEED_RESTART else "no", _as_code(means[name])))
    return f"""# Settings

`isocenter serve --config isocenter.yaml`. `deploy/isocenter.yaml` is an example that holds all of them with their defaults.
A running service reads the file again on SIGHUP; settings marked *restart* take effect at the next start. Times are in seconds.
`~` at the beginning of a folder is the home of the user that runs the service; other folders that do not begin with `/` start
from the folder in which it was started. Variables are not expanded. A name that is given twice is refused.

{table("setting", "accepted", "default", "restart", "meaning", rows=rows)}
"""


def _yaml(value: object) -> str:
    """A value as it is written in a settings file."""
    if isinstance(value, tuple):
        value = list(value)
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]


def _as_code(meaning: str) -> str:
    return re.sub(r"``(.+?)``", r"`\1`", meaning)


def gadgets() -> str:
    """Every gadget, with its options and what they mean."""
    parts = [_gadget(load(name)) for name in sorted(GADGETS)]
    return f"""# Gadgets

In a pipeline: `<gadget name="..."><property name="..." value="..."/></gadget>` inside an external node's `<configuration>`.
How to write one is in [Gadgets of your own](../gadgets.md).

{"".join(parts)}"""


def _gadget(gadget: Gadget) -> str:
    means = meanings(gadget.function)
    sent = {option: name for name, option in gadget.parameters.items()}
    rows = []
    for name, default in gadget.defaults.items():
        shown = "must be given" if default is inspect.Parameter.empty else code(as_text(default))
        client = f" A client may choose it by the parameter `{sent[name]}`." if name in sent else ""
        rows.append((f"`{name}`", accepted(gadget.options[name]), shown, _as_code(means[name]) + client))
    return f"## {gadget.name}\n\n{_about(gadget)}\n\n{table('option', 'accepted', 'default', 'meaning', rows=rows)}\n\n"


def _about(gadget: Gadget) -> str:
    """What the documentation says before its first section."""
    text = re.split(r"\n\n\w+\n-+\n", inspect.getdoc(gadget.function) or "")[0]
    return _as_code(re.sub(r"::\n\n((?:    .*\n?|\n)+)", r":\n\n\1", text))


def pipelines() -> str:
    """Every pipeline that comes with Isocenter, its steps, and what a client may choose."""
    parts = []
    for name in sorted(loader.available(())):
        if name.endswith("_execute.xml"):
            continue
        pipeline = loader.load(name, ())
        steps = [_step(step) for step in pipeline.steps]
        parts.append(
            f"## {name}\n\n{pipeline.summary}.\n\nSteps: {', '.join(steps)}.\n\n"
            f"{_choices(parameters_of(pipeline))}\n\n".replace("..\n", ".\n")
        )
    return f"""# Pipelines

A pipeline is a Gadgetron XML file. These come with Isocenter; your own go to `~/.isocenter/pipelines`, or a folder of the setting
`pipelines`. `isocenter pipelines show NAME` prints what is below, of your own too. Steps are [gadgets](gadgets.md).

A client sends *parameters* as FIRE does, in a JSON message; `isocenter replay --parameter name=value` does it, and
`isocenter.reconstruct(..., name=value)`. Every pipeline takes these:

{_choices(OF_THE_SERVICE)}

`NAME_execute.xml`, of `rss`, `sense` and `network`, is the same for a Gadgetron that starts Isocenter itself ([Beside a
Gadgetron](../gadgetron.md)).

{"".join(parts)}"""


def _choices(parameters: Mapping[str, Parameter]) -> str:
    rows = [(f"`{p.name}`", p.accepted, code(p.default), _as_code(p.meaning)) for p in parameters.values()]
    return table("parameter", "accepted", "default", "meaning", rows=rows)


def _step(step: loader.Step) -> str:
    if not isinstance(step, loader.GadgetStep):
        return f"`{step.title}`"
    options = ", ".join(f"{name}={as_text(value)}" for name, value in step.options.items())
    name = f"[{step.gadget.name}](gadgets.md#{step.gadget.name})"
    return f"{name} (`{options}`)" if options else name


def commands() -> str:
    """Every command with its arguments and options."""
    parts = list(_commands(typer.main.get_command(app), "isocenter"))
    return f"""# Command line

`isocenter COMMAND --help` prints the same.

{"".join(parts)}"""


def _commands(command: Any, name: str) -> Iterator[str]:
    children: Mapping[str, Any] = getattr(command, "commands", {})
    if name != "isocenter":
        yield f"## {name}\n\n{_help(command)}\n\n{table('', 'default', 'meaning', rows=list(_parameters(command)))}\n\n"
    for child, each in children.items():
        if not each.hidden:
            yield from _commands(each, f"{name} {child}")


def _help(command: Any) -> str:
    text = inspect.cleandoc(command.help or "")
    return re.sub(r"^Example: (.+)$", r"Example: `\1`", text, flags=re.MULTILINE)


def _parameters(command: Any) -> Iterator[tuple[str, ...]]:
    for each in command.params:
        if getattr(each, "hidden", False) or each.name == "help":
            continue
        is_option = each.opts[0].startswith("-")
        names = (
            [*each.opts, *each.secondary_opts] if is_option else [str(each.metavar or each.name).strip("{}[]").upper()]
        )
        default = "" if each.default in (None, False, (), []) or callable(each.default) else code(each.default)
        meaning = " ".join((getattr(each, "help", None) or "").split())
        yield ", ".join(map(code, names)), "must be given" if each.required else default, meaning


def troubleshooting() -> str:
    """What every kind of fault means, what to do, and its messages."""
    remedies: dict[str, dict[str, dict[str, str]]] = yaml.safe_load(
        (DOCS / "remedies.yaml").read_text(encoding="utf-8")
    )
    said = messages()
    parts = []
    for title, kinds in remedies.items():
        parts.append(f"## {title}\n\n")
        for kind, remedy in kinds.items():
            listed = "\n".join(f"- {_message(text)}" for text in said.get(kind, []))
            parts.append(f"### {kind}\n\n{remedy['means']}\n\n**What to do.** {remedy['do']}\n\n{listed}\n\n")
    return f"""# Troubleshooting

An error says what is wrong, where, and what is accepted: `where: what; accepted: ...`. It is told to the client, written to the
log, and printed by commands after `error:`. Here are all of them, by kind; `…` stands for what a message is told at run time.
Search this page for some words of yours.

A command ends with status 0; with 1 where a scan, or what it was to do, failed; and with 2 where it was called wrongly or the
settings are wrong.

A scan that had trouble still gives images where it can. Then the client gets the messages as a text at the end, each kind once
with how often, and the images say in their [meta attributes](images.md) what concerns them.

{"".join(parts)}"""


def _message(text: str) -> str:
    return "`` " + " ".join(text.split()) + " ``" if "`" in text else f"`{' '.join(text.split())}`"


if __name__ == "__main__":
    for page, text in pages().items():
        path = DOCS / page
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
