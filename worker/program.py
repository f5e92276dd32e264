"""What a task runs, as arguments and environment: its own part added, shell commands made one program, variables filled in.
Pure.
"""

import shlex

from events import template
from events.inputs import param_text
from events.protocol import Run
from events.spec import Each
from worker.executors.base import Rejected

_SHELL_HEAD = """hive_n=0
trap 'hive_s=$?; [ "$hive_s" -eq 0 ] || echo "hive: command $hive_n of {count} failed with exit code $hive_s" >&2' EXIT
"""


def program(order: Run, index: int, own: Each, home: str) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a task whose folder it sees as `home`. Raises Rejected: a variable means nothing."""
    text = order.text
    command = [*text.command, *own.args]
    lines, env = text.commands, {**text.env, **own.env}
    if template.has_any([*command, *lines, *env.values()]):

        def fill(value: str) -> str:
            return template.render(value, lambda name: _value(name, order, index, own, home))

        try:
            command, lines = [*map(fill, command)], [*map(fill, lines)]
            env = {name: fill(value) for name, value in env.items()}
        except template.Unknown as error:
            raise Rejected(f"{{{{{error}}}}} is no variable of this task") from None
    if lines:
        command = ["sh", "-c", shell_script(lines), "sh", *command]
    return command, env


def as_typed(reason: str, order: Run, args: list[str]) -> str:
    """`reason` with the program's name as its user typed it: masking (events.masking) knows no other form of it."""
    command = order.text.command
    if order.kind == "python" or not command or not args or args[0] == command[0]:
        return reason
    return reason.replace(args[0], command[0])


def shell_script(lines: list[str]) -> str:
    """A program for `sh` that runs each of `lines` in turn, in one shell, up to the first that fails, and then says which."""
    steps = (f"hive_n={at}; eval {shlex.quote(line)} || exit" for at, line in enumerate(lines, 1))
    return _SHELL_HEAD.replace("{count}", str(len(lines))) + "\n".join(steps)


def _value(name: str, order: Run, index: int, own: Each, home: str) -> str:
    family, dot, rest = name.partition(".")
    if dot:
        if family == "input" and any(file.path == rest for file in (*order.text.inputs, *own.inputs)):
            return f"{home}/{rest}"
        params = order.text.params | own.params
        if family == "param" and rest in params:
            return param_text(params[rest])
        raise template.Unknown(name)
    values = {
        "job": order.job,
        "index": str(index),
        "count": str(order.count),
        "attempt": str(order.attempt),
        "task": f"{order.job}.{index}",
        "run": f"{order.job}.{index}.{order.number}",
        "folder": home,
        "cpus": f"{order.cpus_milli / 1000:g}",
        "memory": str(order.memory_bytes),
        "gpus": ",".join(order.gpus),
        "gpu_count": str(len(order.gpus)),
    }
    if name not in values:
        raise template.Unknown(name)
    return values[name]
