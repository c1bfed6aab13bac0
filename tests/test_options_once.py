"""Options that are given more than once, or where nothing reads them."""

import pytest
from isocenter.commands.cli import app
from test_command_line import COMMANDS
from typer.testing import CliRunner


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_of_one_value_is_not_taken_twice(command):
    for parameter in COMMANDS[command].params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            if parameter.multiple:
                assert "several times" in parameter.help, (command, parameter.name)
                continue
            values = [] if parameter.is_flag else ["1"] * parameter.nargs
            for first in (*parameter.opts, *parameter.secondary_opts):
                said = CliRunner().invoke(app, [*command.split(), first, *values, parameter.opts[0], *values])
                assert (said.exit_code, "given more than once" in said.stderr) == (2, True), (first, said.output)


def test_a_settings_file_that_nothing_would_read_is_refused():
    said = CliRunner().invoke(app, ["pipelines", "--config", "a", "show", "network"])
    assert said.exit_code == 2
    assert "--config belongs behind `pipelines show`" in said.stderr
