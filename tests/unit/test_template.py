"""Variables in commands and environments, and shell commands as one program."""

import subprocess

import pytest

from events import template
from events.spec import BadSpec, Each, Input, JobSpec, TaskText, check_spec
from tests.machine_support import order
from worker.executors.base import CONTAINER_HOME as HOME
from worker.executors.base import Rejected
from worker.program import program, shell_script


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{{index}} of {{ count }}", ["index", "count"]),
        ("{{input.data/a b.csv}}", ["input.data/a b.csv"]),
        ("{{!index}}", []),
        ("docker ps --format '{{.Names}}' ${{ }} {index} {{1}}", []),
    ],
)
def test_names(text: str, found: list[str]) -> None:
    assert template.names(text) == found


@pytest.mark.parametrize("field", ["command", "commands", "env.A"])
def test_a_variable_that_means_nothing_is_refused_with_what_there_is(field: str) -> None:
    text = "x {{nonsense}}"
    fields = {
        "command": {"command": [text]},
        "commands": {"commands": [text]},
        "env.A": {"command": ["x"], "env": {"A": text}},
    }
    with pytest.raises(
        BadSpec, match=r"\{\{nonsense\}\} is no variable; there are job, index.*\{\{!nonsense\}\}"
    ) as caught:
        check_spec(JobSpec(**fields[field]))  # pyright: ignore[reportArgumentType]
    assert caught.value.field == field


def test_an_input_that_is_not_there_is_refused() -> None:
    check_spec(JobSpec(["cat", "{{input.a}}"], inputs=[Input("a", "0" * 64)]))
    with pytest.raises(BadSpec, match=r"input\.b"):
        check_spec(JobSpec(["cat", "{{input.b}}"], inputs=[Input("a", "0" * 64)]))


def test_they_are_filled_in_where_the_task_runs() -> None:
    text = TaskText(
        ["x", "{{task}}/{{attempt}}", "{{input.in}}"], env={"A": "{{folder}}:{{!job}}"}, inputs=[Input("in")]
    )
    own = Each(["{{index}}"], {"B": "{{run}}"})
    asked = order(7, [0, 9], text=text, attempt=2)
    args, env = program(asked, 3, own, HOME)
    assert args == ["x", "j1.3/2", f"{HOME}/in", "3"]
    assert env == {"A": f"{HOME}:{{{{job}}}}", "B": "j1.3.7"}


def test_every_name_has_a_value() -> None:
    text = TaskText([f"{{{{{name}}}}}" for name in template.NAMES])
    args, _ = program(order(1, [0, 0], text=text), 0, Each(), HOME)
    assert not any("{" in arg for arg in args)


def test_a_tasks_own_part_is_checked_where_it_is_read() -> None:
    with pytest.raises(Rejected, match="nonsense"):
        program(order(1, [0, 0]), 0, Each(["{{nonsense}}"]), HOME)


def shell(*lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", shell_script([*lines]), "sh", "arg"], capture_output=True, text=True)


def test_commands_share_one_shell() -> None:
    done = shell("cd /usr", "x='a  b'", 'echo "$PWD $x $1"')
    assert (done.returncode, done.stdout, done.stderr) == (0, "/usr a  b arg\n", "")


@pytest.mark.parametrize(
    ("bad", "code"), [("false", 1), ("exit 7", 7), ("sh -c 'exit 9'", 9), ("if", 2), ("no-such-program", 127)]
)
def test_the_first_that_fails_is_the_last_and_is_named(bad: str, code: int) -> None:
    done = shell("echo one", bad, "echo three")
    assert (done.returncode, done.stdout) == (code, "one\n")
    assert f"hive: command 2 of 3 failed with exit code {code}" in done.stderr
