"""Who gets a NATS JWT over HTTP: whoever proves to have the key of a known worker, once a request, and not too often."""

import base64
from pathlib import Path

import msgspec
import pytest

from infra import nkey
from infra.folder import Folder
from infra.nats_authority import WORKER_JWT_S, Authority
from infra.nats_jwt import read_user
from infra.nkey import Signer
from infra.renewal import (
    KEY_TAKEN,
    NOT_ENROLLED,
    REPLAYED,
    SKEW_MS_MAX,
    STALE,
    TOO_MANY,
    CredentialBody,
    RekeyBody,
    rekey_text,
    sign,
)
from services.credentials import ASKED_MAX, SWEEP_MS, WINDOW_MS, CredentialDesk, CredentialRefused, KeyTaken
from tests.signing_support import CHAIN

NOW = 1_800_000_000_000
SEED = nkey.new_user_seed()
KEY = nkey.public_of(SEED)
WORKER = nkey.worker_id_of(KEY)
OTHER, TAKEN = nkey.new_user_seed(), nkey.new_user_seed()


class Desk:
    """A desk that knows one worker, and its clock."""

    def __init__(self, root: Path) -> None:
        self.now = NOW
        authority = Authority(Folder(root), lambda: self.now / 1000)

        async def mint(worker: str, public_key: str) -> str:
            if (worker, public_key) != (WORKER, self.key):
                return ""
            return authority.worker_jwt(worker, public_key, "default", self.now // 1000 + WORKER_JWT_S)

        async def rekey(worker: str, before: str, public_key: str) -> bool:
            if public_key == nkey.public_of(TAKEN):
                raise KeyTaken("it is another worker's")
            if worker != WORKER or self.key not in (before, public_key):
                return False
            self.key = public_key
            return True

        self.key = KEY
        self.desk = CredentialDesk(mint, rekey, CHAIN, lambda: self.now)

    async def code(self, asked: CredentialBody | RekeyBody) -> str:
        """Why there is no JWT, or no other key; "" when there is."""
        try:
            await (self.desk.rekey(asked) if isinstance(asked, RekeyBody) else self.desk.issue(asked))
        except CredentialRefused as refused:
            return refused.code if refused.now == self.now else "tells another time"
        return ""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def request(at: int = NOW, nonce: str = "n" * 16, worker: str = WORKER, seed: str = SEED) -> CredentialBody:
    signer = Signer(seed)
    signature = base64.b64encode(sign(worker, signer, at, nonce)).decode()
    return CredentialBody(worker, signer.public_key, at, nonce, signature)


async def test_a_known_worker_gets_a_jwt_that_says_until_when_and_what_time_it_is(desk: Desk) -> None:
    answer = await desk.desk.issue(request())
    claims = read_user(answer.jwt)
    assert (claims.sub, claims.name) == (KEY, WORKER)
    assert (answer.now, answer.expires_at) == (NOW, NOW + WORKER_JWT_S * 1000)


async def test_a_request_is_good_once(desk: Desk) -> None:
    assert await desk.code(request()) == ""
    assert await desk.code(request()) == REPLAYED
    assert await desk.code(request(nonce="m" * 16)) == ""


@pytest.mark.parametrize("off", [SKEW_MS_MAX, -SKEW_MS_MAX])
async def test_a_request_from_too_far_away_in_time_is_stale_and_cannot_be_replayed_later(desk: Desk, off: int) -> None:
    assert await desk.code(request(at=NOW + off + (1 if off > 0 else -1))) == STALE
    assert await desk.code(request(at=NOW + off)) == ""
    for later in range(0, 2 * WINDOW_MS, SKEW_MS_MAX // 2):
        desk.now = NOW + later
        await desk.code(request(at=desk.now, nonce=f"another-{later:08}"))
        assert await desk.code(request(at=NOW + off)) in (REPLAYED, STALE)


async def test_what_is_not_signed_by_the_workers_own_key_is_refused(desk: Desk) -> None:
    good, other = request(), nkey.new_user_seed()
    wrong = [
        request(seed=other),
        CredentialBody(WORKER, KEY, NOW, "n" * 16, request(seed=other).signature),
        CredentialBody(WORKER, KEY, NOW + 1, "n" * 16, good.signature),
        CredentialBody(WORKER, KEY, NOW, "m" * 16, good.signature),
        CredentialBody("w" + "a" * 12, KEY, NOW, "n" * 16, good.signature),
        request(worker="w" + "a" * 12),
        CredentialBody(WORKER, "U" + "A" * 55, NOW, "n" * 16, good.signature),
        CredentialBody(WORKER, "\u00e9" * 56, NOW, "n" * 16, good.signature),
        *(CredentialBody(WORKER, KEY, NOW, "n" * 16, text) for text in ("", "?", "AAAA", "\u00e9", "A" * 88)),
    ]
    for asked in wrong:
        assert await desk.code(asked) == NOT_ENROLLED, asked
    assert await desk.code(good) == ""


async def test_one_worker_may_ask_so_often_and_again_later(desk: Desk) -> None:
    for number in range(ASKED_MAX):
        assert await desk.code(request(nonce=f"number-{number:010}")) == ""
    assert await desk.code(request(nonce="once-too-often-")) == TOO_MANY
    desk.now += WINDOW_MS + 1
    assert await desk.code(request(at=desk.now, nonce="a-while-later---")) == ""


async def test_what_is_remembered_is_bounded(desk: Desk) -> None:
    for number in range(3 * ASKED_MAX):
        await desk.code(request(at=desk.now, nonce=f"number-{number:010}"))
        await desk.code(request(at=desk.now, nonce=f"number-{number:010}", seed=nkey.new_user_seed()))
        assert sum(map(len, desk.desk._seen.values())) <= ASKED_MAX
        desk.now += SWEEP_MS
    desk.now += WINDOW_MS + SWEEP_MS
    await desk.code(request(at=desk.now))
    assert sum(map(len, desk.desk._seen.values())) == 1


# Other keys


def change(seed: str = SEED, new: str = OTHER, at: int = NOW, nonce: str = "n" * 16, worker: str = WORKER) -> RekeyBody:
    """A good request for another key."""
    signers = Signer(seed), Signer(new)
    text = rekey_text(worker, signers[0].public_key, signers[1].public_key, at, nonce)
    proofs = [base64.b64encode(signer.sign(text)).decode() for signer in signers]
    return RekeyBody(worker, signers[0].public_key, signers[1].public_key, at, nonce, *proofs)


async def test_who_has_both_keys_changes_them_and_the_old_one_gets_nothing_any_more(desk: Desk) -> None:
    answer = await desk.desk.rekey(change())
    assert (answer.public_key, answer.now) == (nkey.public_of(OTHER), NOW)
    assert await desk.code(request(nonce="1" * 16)) == NOT_ENROLLED
    assert await desk.code(request(nonce="2" * 16, seed=OTHER)) == ""
    assert await desk.code(change(nonce="3" * 16)) == "", "who died before the answer asks again"
    assert await desk.code(change(new=nkey.new_user_seed(), nonce="4" * 16)) == NOT_ENROLLED, (
        "the old key changes nothing"
    )


async def test_a_change_of_keys_is_good_once_and_for_a_while(desk: Desk) -> None:
    assert await desk.code(change(at=NOW - SKEW_MS_MAX - 1)) == STALE
    assert await desk.code(change()) == ""
    assert await desk.code(change()) == REPLAYED


async def test_a_change_that_both_keys_did_not_sign_is_refused(desk: Desk) -> None:
    good = change()
    for wrong in (
        msgspec.structs.replace(good, signature=good.new_signature),
        msgspec.structs.replace(good, new_signature=good.signature),
        msgspec.structs.replace(good, new_key=nkey.public_of(TAKEN)),
        msgspec.structs.replace(good, at=NOW + 1),
        msgspec.structs.replace(good, worker="waaaaaaaaaaaa"),
        msgspec.structs.replace(good, new_signature="?"),
        change(new=SEED),
        change(seed=nkey.new_user_seed()),
    ):
        assert await desk.code(wrong) == NOT_ENROLLED
    assert await desk.code(change(new=TAKEN)) == KEY_TAKEN
    assert desk.key == KEY
    assert await desk.code(good) == ""
