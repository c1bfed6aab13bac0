"""What all commands stand in: where they print, and how whatever ends one of them too early becomes a sentence and a status.

A command first checks what it was given, then works. What goes wrong before the work is the user's to mend, and nothing has
been begun: status 2. What goes wrong within ``working()`` has status 1. So no command catches an error to print it: it raises,
and puts its work into ``with working():``.

====== ===============================================================================================================
status
====== ===============================================================================================================
0      It is done.
1      The work failed: the server reported an error, a bundle did not pass its probe or the gate, a disk is full.
2      Nothing was begun: arguments, settings or files are wrong, missing, or cannot be written; also of what is only checked.
130    Interrupted by Ctrl-C; a replay also by SIGTERM.
====== ===============================================================================================================
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

FAILED = 1
USAGE = 2
INTERRUPTED = 130

ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file (YAML).")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log details, too.")]

out: Console = Console(highlight=False, soft_wrap=True)
err: Console = Console(stderr=True, highlight=False, soft_wrap=True)

# the base class of click's errors, which typer has brought under its own name in some versions and imported in others
_ClickError: Any = typer.BadParameter.__mro__[2]


class Command(TyperCommand):
    """A command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments."""
        _refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)


class Commands(TyperGroup):
    """A group of commands. Named alone, it shows its help; errors of its commands end as sentences."""

    def main(self, *arguments: Any, standalone_mode: bool = True, **options: Any) -> Any:
        """Run a command line; ends the program with the command's status."""
        if not standalone_mode:
            return super().main(*arguments, standalone_mode=False, **options)
        try:
            with _told(USAGE):
                status = super().main(*arguments, standalone_mode=False, **options)
        except _ClickError as error:
            _say(_usage(error))
            status = USAGE
        except typer.Exit as ended:
            status = ended.exit_code
        sys.exit(FAILED if _output_is_lost() else status)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; without any there is help."""
        if not (args or self.invoke_without_command or ctx.resilient_parsing):
            args = [ctx.help_option_names[0]]
        _refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _told(USAGE):
            return super().invoke(ctx)


class App(typer.Typer):
    """Typer's, with our groups and commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=Commands, **options)

    def command(self, name: str | None = None, **options: Any) -> Any:
        """Return the decorator of a command."""
        return super().command(name, cls=Command, **options)


def _refuse_repeated(command: Any, ctx: Any, args: list[str]) -> None:
    """Refuse an option that is given twice and has one value: the parser would take the last without a word."""
    if ctx.resilient_parsing:
        return
    *_, given = command.make_parser(ctx).parse_args(args=list(args))
    for parameter in given:
        if given.count(parameter) > 1 and not (parameter.multiple or parameter.is_eager):
            raise typer.BadParameter("it is given more than once: give it once", ctx=ctx, param=parameter)


def print_table(table: Table, console: Console = out) -> None:
    """Print a table: as wide as the terminal; in a pipe without lines around it, each row a line of its own."""
    if console.is_terminal:
        console.print(table, soft_wrap=False)
        return
    if table.title:
        console.print(str(table.title), markup=False)
    columns = [
        [*([str(column.header)] if table.show_header else []), *map(str, column.cells)] for column in table.columns
    ]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.print(line.rstrip(), markup=False, soft_wrap=True)


def working() -> AbstractContextManager[None]:
    """Begin the work: all that could be checked was. What ends it too early is told, and ends the command with status 1."""
    return _told(FAILED)


def usage(text: str) -> NoReturn:
    """End the command because of what it was given: one sentence, and status 2."""
    _say(text)
    raise typer.Exit(USAGE)


@contextmanager
def _told(status: int) -> Iterator[None]:
    try:
        yield
    except (_ClickError, typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt as stop:
        _say(f"interrupted: {stop}" if str(stop) else "interrupted", "")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:  # noqa: BLE001 - it is told, and has a status
        if _output_is_lost():
            raise typer.Exit(FAILED) from None
        _say(sentence(error))
        disk_is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        raise typer.Exit(FAILED if disk_is_full else status) from None


def sentence(error: Exception) -> str:
    """Say what an error is, for the one at the command line.

    Errors of the project are sentences already, and those of the system nearly. Another is a fault of the program: then kind and
    place are told, too, in the place of a traceback.
    """
    # imported only where there is an error, since the package of the wire takes longer than all that --help needs
    from ..service.logs import trace
    from ..wire.errors import IsocenterError

    if isinstance(error, IsocenterError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        from ..wire.extras import lacks

        return lacks(error.name.partition(".")[0], "this")
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return f"{os.fsdecode(error.filename)}: {reason}" if isinstance(error.filename, str | bytes) else reason
    if isinstance(error, MemoryError):
        return f"there is not enough memory{f': {error}' if str(error) else ''}"
    return f"a fault of Isocenter's own, please report it: {error or type(error).__name__}: {trace(error)}"


def _usage(error: Any) -> str:
    message = error.format_message().strip().rstrip(".")
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    return f"{context.command_path}: {message}; {context.command_path} --help shows what is accepted"


def _say(text: str, label: str = "error: ") -> None:
    """Print each line of a text, and nothing in it that would move the terminal's cursor."""
    for line in filter(None, map(str.strip, text.splitlines() or [text])):
        shown = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)
        with _lost_output():
            err.print(f"{label}{shown}", markup=False)


@contextmanager
def _lost_output() -> Iterator[None]:
    """Go on where nobody can be told any more."""
    try:
        yield
    except OSError:
        _discard(sys.stderr)


def _output_is_lost() -> bool:
    """Write what standard output still holds; if it cannot be, say so, unless it is a pipe that its reader has closed."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            _say(f"standard output cannot be written: {error.strerror}")
        return True
    return False


def _discard(stream: Any) -> None:
    """Lead a stream nowhere, so that what it still holds is no error at the interpreter's end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
