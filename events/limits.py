"""How a task is let run, as asked for: its program, image, network, disk and processes; what is wrong with that, and what
it needs of a machine. Pure.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from events import needs, template

if TYPE_CHECKING:
    from events.spec import JobSpec

Pull = Literal["", "missing", "always", "never"]
Network = Literal["", "none", "full"]

COMMANDS_MAX = 1000
HOSTS_MAX = 100
DISK_BYTES_MIN = 1024**2
DISK_BYTES_MAX = 64 * 1024**4
PIDS_MAX = 1_000_000
HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*(:[0-9]{1,5})?\Z")
IMAGE = re.compile(r"[a-z0-9][a-zA-Z0-9._/:@-]{0,254}\Z")
SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
REGISTRY_VARIABLE = "HIVE_REGISTRY_LOGIN"
"""Under this name the login for an image's registry comes with the task's secrets; tasks never see it."""


def problems(spec: "JobSpec", kind: str) -> Iterator[tuple[str, str]]:
    """(field, what is wrong with it), for what is about how the task is let run."""
    yield from _program(spec, kind)
    yield from _image(spec, kind)
    if spec.network or spec.hosts:
        yield from _network(spec, kind)
    if spec.disk and not DISK_BYTES_MIN <= spec.disk <= DISK_BYTES_MAX:
        yield (
            "disk",
            f"is {spec.disk}; must be from {DISK_BYTES_MIN} to {DISK_BYTES_MAX} bytes (0: what the worker gives)",
        )
    if spec.pids and not 1 <= spec.pids <= PIDS_MAX:
        yield "pids", f"is {spec.pids}; must be from 1 to {PIDS_MAX} (0: what the worker gives)"
    if spec.swap and (kind != "container" or not 0 < spec.swap <= DISK_BYTES_MAX or not spec.memory):
        yield "swap", "is how much a container may swap beyond its memory: for kind container, with memory set too"
    texts = [*spec.command, *spec.commands, *spec.env.values()]
    if template.has_any(texts) and (name := template.unknown(texts, _members(spec))):
        known = ", ".join([*template.NAMES, *(f"{family}.NAME" for family in template.FAMILIES)])
        field = next((f"env.{key}" for key, text in spec.env.items() if name in template.names(text)), "")
        field = field or ("commands" if any(name in template.names(text) for text in spec.commands) else "command")
        yield field, f"{{{{{name}}}}} is no variable; there are {known}. For that very text write {{{{!{name}}}}}"


def _members(spec: "JobSpec") -> dict[str, set[str]]:
    return {"input": {file.path for file in spec.inputs}, "param": {*spec.params}}


def _program(spec: "JobSpec", kind: str) -> Iterator[tuple[str, str]]:
    if spec.commands:
        if kind not in ("shell", "container"):
            yield "commands", "is for kind shell, or for a container"
        if spec.command:
            yield "commands", "cannot be given beside command; put all of it into commands"
        if len(spec.commands) > COMMANDS_MAX:
            yield "commands", f"has {len(spec.commands)} entries; the limit is {COMMANDS_MAX}: put them into a script"
        for at, line in enumerate(spec.commands):
            if not line.strip() or "\0" in line:
                yield f"commands[{at}]", "must be a shell command without NUL characters; remove the entry"
    elif kind == "shell":
        yield "commands", 'is empty; name shell commands, such as ["cd src", "make"]'
    if spec.entry and kind != "python":
        yield "entry", "is the Python file to run: for kind python"


def _image(spec: "JobSpec", kind: str) -> Iterator[tuple[str, str]]:
    if kind == "container" and not spec.image:
        yield "image", 'is empty; a container needs an image, such as "busybox"'
    if spec.image and (kind != "container" or not IMAGE.match(spec.image)):
        yield "image", f"{spec.image[:80]!r} is not an image reference, or the kind is not container"
    for field in ("pull", "image_secret"):
        if getattr(spec, field) and kind != "container":
            yield field, "is about the image of a container; set image"
    if spec.image_secret and not SECRET_NAME.match(spec.image_secret):
        yield "image_secret", "must be 1 to 64 of letters, digits, _ . - and begin with no sign"


def _network(spec: "JobSpec", kind: str) -> Iterator[tuple[str, str]]:
    if kind == "noop":
        yield "network", "is not for kind noop, which runs nothing"
    if spec.hosts and spec.network:
        yield "hosts", f"cannot be given with network {spec.network!r}; leave network out to reach these hosts alone"
    if len(spec.hosts) > HOSTS_MAX:
        yield "hosts", f"has {len(spec.hosts)} entries; the limit is {HOSTS_MAX}"
    for at, host in enumerate(spec.hosts):
        if not HOST.match(host):
            yield f"hosts[{at}]", f"{host[:80]!r} is no host; write pypi.org, *.pypi.org or pypi.org:443"


def needs_of(spec: "JobSpec", kind: str) -> list[str]:
    """What a machine must have for these tasks, beside size and kind."""
    if not (spec.disk or spec.pids or spec.network or spec.hosts):
        return []
    found: list[str] = []
    if spec.disk:
        found.append(needs.DISK)
    if spec.hosts:
        found.append(needs.HOSTS)
    elif spec.network == "full":
        found.append(needs.NETWORK)
    elif spec.network == "none" and kind != "container":
        found.append(needs.ALONE)
    if spec.pids:
        found.append(needs.PIDS)
    return found


def covers(rule: str, host: str) -> bool:
    """Whether `rule` (NAME, *.NAME, either with :PORT) allows all that `host`, of the same form, means."""
    rule_name, _, rule_port = rule.partition(":")
    name, _, port = host.partition(":")
    if rule_port and rule_port != port:
        return False
    return name == rule_name or (rule_name.startswith("*.") and name.endswith(rule_name[1:]))
