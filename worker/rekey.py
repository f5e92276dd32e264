"""Another key for a worker, while its agent runs: made beside the present one, told to the platform, and only then put in
its place. Whatever dies in between, one of the two is good, and who has both finds out which.
"""

import base64
import fcntl
import os
from pathlib import Path

import msgspec

from events.base import WorkerId
from infra.files import sync_folder
from infra.folder import Folder
from infra.nkey import Signer, new_user_seed
from infra.renewal import REKEY_PATH, RekeyAnswer, RekeyBody, rekey_text
from worker.api import Api
from worker.identity import SEED_NAME
from worker.signed import AskRefused, SignedAsk

NEXT_NAME = f"{SEED_NAME}.next"
LOCK_NAME = "rekey.lock"

_answer_of = msgspec.json.Decoder(RekeyAnswer).decode
_encode = msgspec.json.Encoder().encode


def next_seed(present: Path) -> str:
    """The seed that was made to take the place of that in `present`, "" without one."""
    try:
        return present.with_name(NEXT_NAME).read_text().strip()
    except FileNotFoundError:
        return ""


def promote(present: Path, seed: str) -> None:
    """Have `seed`, by which the platform knows the worker, take the place of that in `present`. Another that was made
    meanwhile does not take it, and done twice it is done once.
    """
    handle = os.open(present.with_name(LOCK_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if next_seed(present) == seed:
            os.replace(present.with_name(NEXT_NAME), present)
            sync_folder(present.parent)
    finally:
        os.close(handle)


async def finish(state: Path, worker: WorkerId, api: Api) -> None:
    """Do what is left of a change that was begun, if one was. Raises AskRefused, worker.api.Unavailable."""
    present = state / "keys" / SEED_NAME
    seed = next_seed(present)
    if not seed:
        return
    before, after = Signer(present.read_text()), Signer(seed)

    def body(at: int, nonce: str) -> bytes:
        text = rekey_text(worker, before.public_key, after.public_key, at, nonce)
        proofs = [base64.b64encode(signer.sign(text)).decode() for signer in (before, after)]
        return _encode(RekeyBody(worker, before.public_key, after.public_key, at, nonce, *proofs))

    try:
        known = _answer_of(await SignedAsk(api).ask(REKEY_PATH, body)).public_key
    except msgspec.DecodeError as error:
        raise AskRefused("", f"the answer cannot be read: {error}") from None
    if known != after.public_key:
        raise AskRefused("", "the answer is about another key")
    promote(present, seed)


async def rekey(state: Path, worker: WorkerId, api: Api) -> str:
    """Give the worker with this state folder another key; its public half. Raises AskRefused, worker.api.Unavailable:
    then asking again goes on where this was left.
    """
    # One that was left from before may be in a copy of the folder, so it is not the one to end with.
    await finish(state, worker, api)
    seed = Folder(state).secret(NEXT_NAME, lambda: new_user_seed().encode()).decode()
    await finish(state, worker, api)
    return Signer(seed).public_key
