"""What a user may ask for, as typed: the body of a submission, checked here and nowhere else.

`JobSpec` is the HTTP body. What places and limits the job goes into `job.submitted` in clear; the rest is its
`TaskText`, which only the user's own pages and the worker that runs the task ever read (a `Sealed` field).
"""

import re
from typing import Literal, get_args

import msgspec

from events.base import Digest
from events.hardware import GPUS_MAX, MODEL, MODEL_CHARS_MAX, slug
from events.inputs import DIGEST, BadSpec, Input, Param, check_inputs, check_params, check_path, check_result
from events.job import Kind, Retries
from events.limits import REGISTRY_VARIABLE, SECRET_NAME, Network, Pull, problems

COUNT_MAX = 10_000_000
TEXT_BYTES_MAX = 64 * 1024
CPUS_MAX = 4096
MEMORY_BYTES_MAX = 64 * 1024**4
GPU_MEMORY_BYTES_MAX = 1024**4
GPU_SHARE_MIN = 0.02
TIME_LIMIT_S_MAX = 366 * 86400
GRACE_S_MAX = 3600
StopSignal = Literal["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"]
STOP_SIGNALS: tuple[StopSignal, ...] = get_args(StopSignal)
AFTER_MAX = 1000
INPUTS_MAX = 100
RESULTS_MAX = 100
SECRETS_MAX = 32
ENV_NAME = re.compile(r"(?!HIVE_)[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
EACH_INPUTS_MAX = 10_000
LABELS_MAX = 64
NAME_CHARS_MAX = 200
CPT_MAX = 1_000_000_000
RETRIES_MAX = 100
NUMBER_SHOWN_MAX = 10**18


class Each(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """What one task of an array has of its own. A JSON list of these, one a task, is the blob that `JobSpec.each` names."""

    args: list[str] = []
    env: dict[str, str] = {}
    inputs: list[Input] = []
    params: dict[str, Param] = {}


class SecretUse(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One of the user's secrets, by its name, and the variable that the task finds its value in."""

    name: str
    env: str


class TaskText(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The part of a job that its user typed and only its worker needs."""

    command: list[str] = []
    name: str = ""
    labels: dict[str, str] = {}
    env: dict[str, str] = {}
    cwd: str = ""
    image: str = ""
    inputs: list[Input] = []
    each: Digest = ""
    results: list[str] = []
    secrets: list[SecretUse] = []
    params: dict[str, Param] = {}
    commands: list[str] = []
    entry: str = ""
    pull: Pull = ""
    network: Network = ""
    hosts: list[str] = []
    disk: int = 0
    pids: int = 0
    swap: int = 0
    gpus: float = 0.0
    gpu_memory: int = 0
    gpu_model: str = ""
    stop_signal: StopSignal = "TERM"
    grace: float = 5.0


class RetrySpec(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """Tries after the first, by cause; `backoff` in seconds, doubled each time up to a minute."""

    exit: int = 0
    oom: int = 0
    timeout: int = 0
    lost: int = 5
    rejected: int = 3
    output_lost: int = 1
    backoff: float = 1.0


class JobSpec(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """A job: `command` run `count` times. Times in seconds, memory in bytes, `cpus` may be a fraction.

    Each task runs in a folder of its own, with its `inputs` in it; what it leaves at the paths in `results` is kept: files,
    folders (`out/`; `./` is all of it but the inputs) and patterns (`logs/**/*.txt`). `params` are in its environment as
    HIVE_PARAM_NAME, and in the JSON file that HIVE_PARAMS names.
    `HIVE_JOB`, `HIVE_INDEX`, `HIVE_COUNT` and `HIVE_ATTEMPT` are in its environment. `after` names jobs that must
    succeed first: ids, or the `ref` of another job in the same request. `secrets` are put into the environment of its
    tasks on the machine that runs them, and stand nowhere else. Kind `shell` runs `commands` one after the other in one
    shell, up to the first that fails; kind `python` runs `entry`, or main.py, app.py, run.py or start.py, with `command`
    as its arguments. `image_secret` is a secret of the form NAME:PASSWORD for the registry of `image`. `network` none, or
    `hosts` alone, or full; `disk` bytes of the task's folder, `pids` processes, `swap` bytes beyond `memory`. `gpus`: so many
    whole GPUs for each task, or a share of one (0.25: up to four tasks on a GPU), each with `gpu_memory` bytes for it and
    of `gpu_model`. A task that is cancelled or out of time gets `stop_signal`, and after `grace` seconds all of it is killed.
    It is refused when it may cost more than `max_cpt` (docs/prices.md;
    0: no limit of its own), and never costs more.
    """

    command: list[str] = []
    kind: Kind | Literal[""] = ""
    image: str = ""
    count: int = 1
    name: str = ""
    labels: dict[str, str] = {}
    env: dict[str, str] = {}
    cwd: str = ""
    priority: int = 5
    cpus: float = 1.0
    memory: int = 0
    gpus: float = 0.0
    gpu_memory: int = 0
    gpu_model: str = ""
    time_limit: float = 0.0
    lost_after: float = 60.0
    retries: RetrySpec = RetrySpec()
    after: list[str] = []
    inputs: list[Input] = []
    each: Digest = ""
    results: list[str] = []
    ref: str = ""
    secrets: list[SecretUse] = []
    params: dict[str, Param] = {}
    commands: list[str] = []
    entry: str = ""
    pull: Pull = ""
    image_secret: str = ""
    network: Network = ""
    hosts: list[str] = []
    disk: int = 0
    pids: int = 0
    swap: int = 0
    max_cpt: float = 0.0
    stop_signal: StopSignal = "TERM"
    grace: float = 5.0


def _between(field: str, value: float, low: float, high: float, unit: str = "") -> None:
    if not low <= value <= high:
        raise BadSpec(field, f"is {_number(value)}; must be from {_number(low)} to {_number(high)}{unit}")


def _number(value: float) -> str:
    """A number as people write it, unless that is absurdly long."""
    whole = int(value) if abs(value) < NUMBER_SHOWN_MAX else None
    return f"{value:g}" if whole != value else str(whole)


def _texts(field: str, texts: list[str]) -> None:
    for at, text in enumerate(texts):
        if "\0" in text:
            raise BadSpec(f"{field}[{at}]", "must not contain a NUL character; remove it")


def _env(field: str, env: dict[str, str]) -> None:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise BadSpec(
                f"{field}.{name}", "names must be non-empty without '=', and nothing may hold a NUL character"
            )


def check_spec(spec: JobSpec, field: str = "") -> None:
    """Raise BadSpec, naming the field below `field`, when `spec` is not a job that could ever run."""
    at = f"{field}." if field else ""
    kind = kind_of(spec)
    if kind == "process" and not spec.command:
        raise BadSpec(f"{at}command", 'is empty; name a program and its arguments, such as ["echo", "hello"]')
    if kind == "process" and not spec.command[0]:
        raise BadSpec(f"{at}command[0]", 'is empty; it is the program to run, such as "echo"')
    for name, detail in problems(spec, kind):
        raise BadSpec(f"{at}{name}", detail)
    _between(f"{at}count", spec.count, 1, COUNT_MAX, " tasks")
    _between(f"{at}priority", spec.priority, 1, 10)
    _between(f"{at}cpus", spec.cpus, 0.001 if kind != "noop" else 0.0, CPUS_MAX)
    _between(f"{at}memory", spec.memory, 0, MEMORY_BYTES_MAX, " bytes")
    _check_gpus(spec, at)
    _between(f"{at}time_limit", spec.time_limit, 0, TIME_LIMIT_S_MAX, " seconds (0: none)")
    _between(f"{at}max_cpt", spec.max_cpt, 0, CPT_MAX, " CPT (0: no limit)")
    _between(f"{at}grace", spec.grace, 0, GRACE_S_MAX, " seconds (0: killed at once)")
    _between(f"{at}lost_after", spec.lost_after, 15, 7 * 86400, " seconds")
    for cause in ("exit", "oom", "timeout", "lost", "rejected", "output_lost"):
        _between(f"{at}retries.{cause}", getattr(spec.retries, cause), 0, RETRIES_MAX)
    _between(f"{at}retries.backoff", spec.retries.backoff, 0, 3600, " seconds")
    _check_text(spec, at)


def _check_gpus(spec: JobSpec, at: str) -> None:
    _between(f"{at}gpus", spec.gpus, 0, GPUS_MAX)
    whole = spec.gpus == int(spec.gpus)
    if not whole and not GPU_SHARE_MIN <= spec.gpus < 1:
        raise BadSpec(
            f"{at}gpus", f"is {spec.gpus:g}; must be a whole number, or a share of one GPU from {GPU_SHARE_MIN} to 1"
        )
    _between(f"{at}gpu_memory", spec.gpu_memory, 0, GPU_MEMORY_BYTES_MAX, " bytes (0: not said)")
    if spec.gpu_model and not (len(spec.gpu_model) <= MODEL_CHARS_MAX and MODEL.match(slug(spec.gpu_model))):
        detail = f'must be part of a GPU\'s name, such as "A100" or "rtx-4090", at most {MODEL_CHARS_MAX} characters'
        raise BadSpec(f"{at}gpu_model", detail)
    for name in ("gpu_memory", "gpu_model"):
        if getattr(spec, name) and not spec.gpus:
            raise BadSpec(f"{at}{name}", "is for tasks that need a GPU; set gpus, such as 1")


def gpus_milli(spec: JobSpec) -> int:
    """Thousandths of a GPU, rounded down so that three times a third go on one."""
    return int(spec.gpus * 1000 + 1e-6)


def _check_text(spec: JobSpec, at: str) -> None:
    _texts(f"{at}command", spec.command)
    _env(f"{at}env", spec.env)
    if len(spec.name) > NAME_CHARS_MAX or not (spec.name == "" or spec.name.isprintable()):
        raise BadSpec(f"{at}name", f"must be at most {NAME_CHARS_MAX} printable characters")
    if len(spec.labels) > LABELS_MAX:
        raise BadSpec(f"{at}labels", f"has {len(spec.labels)} entries; the limit is {LABELS_MAX}")
    for name, value in spec.labels.items():
        if not name or "=" in name or not (name + value).isprintable():
            raise BadSpec(f"{at}labels", f"{name[:80]!r}: names must be non-empty without '=', all of it printable")
    for name in ("cwd", "entry"):
        if path := getattr(spec, name):
            check_path(f"{at}{name}", path)
    if len(spec.after) > AFTER_MAX:
        raise BadSpec(
            f"{at}after", f"has {len(spec.after)} entries; the limit is {AFTER_MAX}: wait for an array instead"
        )
    _check_secrets(spec, at)
    check_inputs(f"{at}inputs", spec.inputs, INPUTS_MAX)
    check_params(f"{at}params", spec.params)
    if spec.each and not DIGEST.match(spec.each):
        raise BadSpec(f"{at}each", "must be the digest of an uploaded JSON list with one entry a task")
    for n, path in enumerate(spec.results):
        check_result(f"{at}results[{n}]", path)
    if len(spec.results) > RESULTS_MAX:
        raise BadSpec(f"{at}results", f"has {len(spec.results)} entries; the limit is {RESULTS_MAX}: pack them up")


def _check_secrets(spec: JobSpec, at: str) -> None:
    if len(spec.secrets) > SECRETS_MAX:
        raise BadSpec(f"{at}secrets", f"has {len(spec.secrets)} entries; the limit is {SECRETS_MAX}")
    taken = set(spec.env)
    for n, secret in enumerate(spec.secrets):
        if not SECRET_NAME.match(secret.name):
            raise BadSpec(f"{at}secrets[{n}].name", "must be 1 to 64 of letters, digits, _ . - and begin with no sign")
        if not ENV_NAME.match(secret.env):
            raise BadSpec(f"{at}secrets[{n}].env", "must be letters, digits and _, and not begin with a digit or HIVE_")
        if secret.env in taken:
            raise BadSpec(f"{at}secrets[{n}].env", f"{secret.env!r} is set twice; each variable has one value")
        taken.add(secret.env)


def kind_of(spec: JobSpec) -> Kind:
    """The kind asked for, or what the other fields imply."""
    return spec.kind or (
        "container" if spec.image else "shell" if spec.commands else "python" if spec.entry else "process"
    )


def text_of(spec: JobSpec) -> TaskText:
    """The part of `spec` that is sealed."""
    secrets = spec.secrets
    if spec.image_secret:
        secrets = [*secrets, SecretUse(spec.image_secret, REGISTRY_VARIABLE)]
    return TaskText(
        spec.command, spec.name, spec.labels, spec.env, spec.cwd, spec.image, spec.inputs, spec.each, spec.results,
        secrets, spec.params, spec.commands, spec.entry, spec.pull, spec.network, spec.hosts, spec.disk, spec.pids, spec.swap,
        spec.gpus, spec.gpu_memory, spec.gpu_model, spec.stop_signal, spec.grace,
    )  # fmt: skip


def retries_of(spec: JobSpec) -> Retries:
    """The retry policy of `spec` as events carry it."""
    r = spec.retries
    return Retries(r.exit, r.oom, r.timeout, r.lost, r.rejected, r.output_lost, int(r.backoff * 1000))
