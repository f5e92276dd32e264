"""Who a worker is, and where its key lies."""

from pathlib import Path

import pytest

from infra import nkey
from worker.identity import SEED_NAME, SYSTEMD_ENV, load_or_create


def test_a_key_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    first = load_or_create(tmp_path, {})
    assert load_or_create(tmp_path, {}) == first
    assert first.seed_path.stat().st_mode & 0o777 == 0o600
    assert first.worker == nkey.worker_id_of(first.public_key)
    assert load_or_create(tmp_path / "other", {}).worker != first.worker


def test_a_key_that_systemd_hands_in_comes_first_and_is_not_copied(tmp_path: Path) -> None:
    seed = nkey.new_user_seed()
    (tmp_path / SEED_NAME).write_text(seed)
    handed = load_or_create(tmp_path / "state", {SYSTEMD_ENV: str(tmp_path)})
    assert (handed.public_key, handed.seed_path) == (nkey.public_of(seed), tmp_path / SEED_NAME)
    assert not (tmp_path / "state").exists()
    other = load_or_create(tmp_path / "state", {SYSTEMD_ENV: str(tmp_path / "empty")})
    assert other.public_key != handed.public_key


def test_a_damaged_key_is_named(tmp_path: Path) -> None:
    path = load_or_create(tmp_path, {}).seed_path
    path.write_text("SUAB")
    with pytest.raises(nkey.BadKey, match="begins with SU"):
        load_or_create(tmp_path, {})
