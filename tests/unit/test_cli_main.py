"""hivectl without a hive: finding commands, refusing nonsense, explaining trouble, starting quickly."""

import io
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from infra.folder import Folder
from services.cli.context import Context
from services.cli.failure import Exit, Failure
from services.cli.main import cli, run
from services.cli.output import Output

ROOT = Path(__file__).resolve().parents[2]


def hivectl(*words: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    code = run(words, Output("text", out, err))
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("HIVE_URL", "HIVE_KEY", "HIVE_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HIVE_DATA", str(tmp_path / "hive"))
    return tmp_path / "hive"


def all_commands(above: click.Group = cli, words: tuple[str, ...] = ()) -> list[list[str]]:
    found: list[list[str]] = []
    context = click.Context(above)
    for name in above.list_commands(context):
        command = above.get_command(context, name)
        assert command is not None
        found.append([*words, name])
        if isinstance(command, click.Group):
            found += all_commands(command, (*words, name))
    return found


@pytest.mark.parametrize("words", all_commands(), ids=" ".join)
def test_every_command_has_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert hivectl(*words, "--help")[0] == Exit.OK
    said = capsys.readouterr().out
    assert said.startswith(f"Usage: hivectl {' '.join(words)}")
    if "COMMAND [ARGS]" not in said:
        assert "Exit codes:" in said
        assert "--data DIR" in said


@pytest.mark.parametrize("words", all_commands(), ids=" ".join)
def test_no_command_takes_a_key_on_its_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    hivectl(*words, "--help")
    assert "--key" not in capsys.readouterr().out.replace("--idempotency-key", "")


@pytest.mark.parametrize("verb", ["jobs", "workers", "tail", "status", "result", "submit", "version"])
def test_everything_that_prints_has_json(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    hivectl(verb, "--help")
    assert "--json" in capsys.readouterr().out


def test_a_typo_names_the_command_meant() -> None:
    code, _, err = hivectl("sumbit", "--", "true")
    assert code == Exit.USAGE
    assert "submit" in err
    assert "hivectl --help" in err


def test_an_unknown_option_names_the_one_meant() -> None:
    code, _, err = hivectl("jobs", "--lable", "a=b")
    assert code == Exit.USAGE
    assert "--label" in err


def test_json_and_quiet_exclude_each_other() -> None:
    assert hivectl("jobs", "--json", "--quiet")[0] == Exit.USAGE


def test_without_a_hive_the_error_says_how_to_start_one(nothing_set: Path) -> None:
    code, out, err = hivectl("jobs")
    assert (code, out) == (Exit.UNAVAILABLE, "")
    assert str(nothing_set) in err
    assert "hivectl up" in err
    assert "HIVE_URL" in err
    assert len(err.splitlines()) == 2
    assert not nothing_set.exists()


def test_another_address_needs_its_own_key() -> None:
    code, _, err = hivectl("jobs", "--url", "http://elsewhere.example")
    assert code == Exit.UNAUTHORIZED
    assert "HIVE_KEY" in err


def test_the_key_of_the_folder_goes_to_its_own_hive_only(nothing_set: Path) -> None:
    folder = Folder(nothing_set)
    with folder.claim("up") as claim:
        claim.set_url("http://127.0.0.1:4321")
        context = Context(Output())
        assert context.address()[:2] == ("http://127.0.0.1:4321", folder.admin_key())
        context.url = "http://127.0.0.1:4321/"
        assert context.address()[1] == folder.admin_key()
        context.url = "http://127.0.0.1:4321.evil.example"
        with pytest.raises(Failure) as caught:
            context.address()
    assert caught.value.code == Exit.UNAUTHORIZED


def test_a_key_in_the_environment_comes_first(nothing_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVE_KEY", "hive_other")
    monkeypatch.setenv("HIVE_URL", "http://elsewhere.example")
    context = Context(Output())
    context.url = "http://elsewhere.example"
    assert context.address()[:2] == ("http://elsewhere.example", "hive_other")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("--count", "0"), "--count"),
        (("--cpus", "-1"), "--cpus"),
        (("--cpus", "nan"), "--cpus"),
        (("--memory", "lots"), "--memory"),
        (("--time-limit", "soon"), "--time-limit"),
        (("--priority", "11"), "--priority"),
        (("--env", "NOVALUE"), "--env"),
        (("--result", "../up"), "--result"),
        (("--retry", "boredom=1"), "--retry"),
        (("--retries", "101"), "--retries"),
    ],
    ids=" ".join,
)
def test_nonsense_is_refused_before_anything_is_asked(words: tuple[str, ...], option: str) -> None:
    code, _, err = hivectl("submit", *words, "--", "true")
    assert code == Exit.USAGE
    assert option in err


def test_a_submission_needs_a_command() -> None:
    code, _, err = hivectl("submit", "--count", "3")
    assert code == Exit.USAGE
    assert "COMMAND is missing" in err
    assert "hivectl submit --wait -- echo hello" in err


def test_the_demo_does_not_disturb_a_hive_that_runs(nothing_set: Path) -> None:
    with Folder(nothing_set).claim("up") as claim:
        claim.set_url("http://127.0.0.1:4321")
        code, _, err = hivectl("demo")
    assert code == Exit.REFUSED
    assert "--data" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    code, out, _ = hivectl("completion", shell)
    assert code == Exit.OK
    assert "_HIVECTL_COMPLETE" in out


def test_version_as_json() -> None:
    code, out, _ = hivectl("version", "--json")
    assert code == Exit.OK
    assert set(json.loads(out)) == {"version", "python", "platform"}


def test_the_version_as_an_option_and_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = hivectl("--version")
    assert (code, err) == (Exit.OK, "")
    assert out == hivectl("version")[1]
    hivectl("--help")
    assert "--version" in capsys.readouterr().out


def test_a_mistake_of_ours_is_one_line_and_with_debug_a_trace_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_folder: Folder) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(Folder, "running", broken)
    code, _, err = hivectl("jobs")
    assert code == Exit.BUG
    assert "Traceback" not in err
    assert "--debug" in err
    assert "Traceback" in hivectl("jobs", "--debug")[2]


def test_it_starts_without_what_only_servers_need() -> None:
    script = (
        "import sys; from services.cli.main import run; run(['version']);"
        "print(sorted({'aiohttp', 'asyncpg', 'litestar', 'nats', 'rich', 'structlog', 'uvicorn'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", script]
    said = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout
    assert said.splitlines()[-1] == "[]"
