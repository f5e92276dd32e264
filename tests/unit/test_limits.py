"""How a task may be let run: what is refused with which field, and what it needs of a machine."""

from typing import Any

import pytest

from events.limits import REGISTRY_VARIABLE, needs_of
from events.spec import BadSpec, JobSpec, SecretUse, check_spec, kind_of, text_of


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("commands", {"commands": ["x"], "command": ["y"]}),
        ("commands", {"kind": "shell"}),
        ("commands[1]", {"commands": ["x", " "]}),
        ("commands", {"commands": ["x"], "kind": "python"}),
        ("entry", {"command": ["x"], "kind": "process", "entry": "main.py"}),
        ("entry", {"entry": "../main.py"}),
        ("pull", {"command": ["x"], "pull": "always"}),
        ("image_secret", {"command": ["x"], "image_secret": "a"}),
        ("image_secret", {"image": "x", "image_secret": " "}),
        ("hosts", {"command": ["x"], "hosts": ["a.b"], "network": "full"}),
        ("hosts[0]", {"command": ["x"], "hosts": ["http://a.b/"]}),
        ("hosts[0]", {"command": ["x"], "hosts": ["*"]}),
        ("network", {"kind": "noop", "network": "full"}),
        ("disk", {"command": ["x"], "disk": 10}),
        ("pids", {"command": ["x"], "pids": -1}),
        ("swap", {"command": ["x"], "swap": 1}),
        ("swap", {"image": "x", "swap": 1}),
    ],
)
def test_what_is_refused(field: str, spec: dict[str, Any]) -> None:
    with pytest.raises(BadSpec) as caught:
        check_spec(JobSpec(**spec))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("spec", "kind", "needs"),
    [
        ({"command": ["x"]}, "process", []),
        ({"commands": ["x"], "network": "none"}, "shell", ["no-network"]),
        ({"entry": "a.py", "hosts": ["*.pypi.org:443"], "disk": 2**30}, "python", ["disk", "hosts"]),
        ({"image": "x", "network": "none"}, "container", []),
        ({"image": "x", "commands": ["x"], "network": "full", "pids": 9}, "container", ["network", "pids"]),
    ],
)
def test_what_it_needs(spec: dict[str, Any], kind: str, needs: list[str]) -> None:
    made = JobSpec(**spec)
    check_spec(made)
    assert kind_of(made) == kind
    assert needs_of(made, kind) == needs


def test_the_registrys_login_comes_with_the_secrets() -> None:
    assert text_of(JobSpec(image="x", image_secret="login")).secrets == [SecretUse("login", REGISTRY_VARIABLE)]
