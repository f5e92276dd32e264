"""NATS keys and the ids made from them."""

import pytest

from infra import nkey


def test_a_worker_id_follows_from_its_public_key() -> None:
    public_key = nkey.public_of(nkey.new_user_seed())
    worker_id = nkey.worker_id_of(public_key)
    assert worker_id == nkey.worker_id_of(public_key)
    assert worker_id != nkey.worker_id_of(nkey.public_of(nkey.new_user_seed()))
    assert len(worker_id) == 13
    assert worker_id[0] == "w"
    assert set(worker_id[1:]) <= set("abcdefghijklmnopqrstuvwxyz234567")


@pytest.mark.parametrize("text", ["", "U", "A" * 56, "U" + "A" * 55, "U" + "é" * 55, "U" + "1" * 55, "u" + "a" * 55])
def test_what_is_not_a_users_public_key_is_refused(text: str) -> None:
    with pytest.raises(nkey.BadKey):
        nkey.check_public(text)


def test_every_changed_letter_is_noticed() -> None:
    public_key = nkey.public_of(nkey.new_user_seed())
    for at in range(1, 56):
        other = "B" if public_key[at] != "B" else "C"
        with pytest.raises(nkey.BadKey):
            nkey.check_public(public_key[:at] + other + public_key[at + 1 :])


@pytest.mark.parametrize("text", ["", "SUAA", "SX" + "A" * 56])
def test_what_is_not_a_seed_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(nkey.BadKey, match="not a NATS user's seed"):
        nkey.public_of(text)
