"""What a stranger does with signed reports: shows them, also after a kill, and replaces the hive's key while workers work."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.folder import Folder
from infra.signing_key import NAME, SigningKey
from tests.integration.test_cli_hive import Hive


@pytest.fixture
def hive(tmp_path: Path) -> Iterator[Hive]:
    one = Hive(tmp_path / "hive")
    one.start()
    yield one
    assert one.stop() == 0, one.said.read_text()


def shown(hive: Hive, *words: str) -> dict[str, object]:
    return json.loads(hive.ok("report", "show", *words, "--json"))


def test_the_report_of_a_task_is_shown_and_checked_also_after_a_kill_and_with_another_key(hive: Hive) -> None:
    job = json.loads(hive.ok("submit", "--wait", "--json", "--", "true"))["job"]
    first = shown(hive, "--job", job)
    assert (first["good"], first["is_its_key"]) == (True, True)
    assert "Signature" in hive.ok("report", "show", str(first["digest"]))
    events = [
        json.loads(line)
        for line in hive.ok("tail", "--from", "1.1", "--no-follow", "--type", "worker.reported", "--json").splitlines()
    ]
    assert first["digest"] in {event["event"]["digest"] for event in events}

    assert hive.process is not None
    before = SigningKey.of(Folder(hive.folder)).signer.public_key
    hive.process.kill()
    hive.process.wait()
    after = hive.ok("signing-key", "rotate").strip()
    assert (hive.folder / "keys" / NAME).stat().st_mode & 0o777 == 0o600
    assert json.loads(hive.ok("signing-key", "show", "--json")) == {"key": after, "before": [before]}
    hive.start()
    job = json.loads(hive.ok("submit", "--wait", "--json", "--", "true"))["job"]
    assert shown(hive, "--job", job)["good"] is True
    assert shown(hive, str(first["digest"])) == first
    pins = {path.read_text() for path in hive.folder.glob("workers/*/keys/hive.pub")}
    assert pins == {after}


def test_what_is_not_there_or_was_not_asked_for_well(hive: Hive) -> None:
    code, _, err = hive.ctl("report", "show", "0" * 64)
    assert (code, "report_archive_bytes_max" in err) == (3, True), err
    code, _, err = hive.ctl("report", "show")
    assert (code, "--job" in err) == (2, True), err
    code, _, err = hive.ctl("report", "show", "0" * 64, "--job", "j")
    assert (code, "--job" in err) == (2, True), err
    key = hive.ok("key", "create", "--scope", "jobs:own", "--quiet").strip()
    running = Folder(hive.folder).running()
    assert running is not None
    hive.environ |= {"HIVE_KEY": key, "HIVE_URL": running.url}
    code, _, err = hive.ctl("report", "show", "0" * 64)
    assert code == 5, err
