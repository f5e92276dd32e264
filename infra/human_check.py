"""Asks a service such as Turnstile whether a human solved its check: one POST with our secret and what the page got.

The service says what it thinks of an answer once; it decides nothing about who may come in.
"""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec

from infra.settings import Settings, SettingsError

ASK_S_MAX = 5.0
ANSWER_BYTES_MAX = 16 * 1024
ASKING_MAX = 50
"""Questions at once; more are refused, so that a flood of logins does not become one of questions."""
OUR_FAULT = frozenset({"missing-input-secret", "invalid-input-secret", "bad-request"})
"""What it says when it is not the answer that is wrong."""


class CheckAway(Exception):
    """The service said neither yes nor no; the text says why."""


class _Said(msgspec.Struct, frozen=True, gc=False):
    success: bool
    codes: list[str] = msgspec.field(default_factory=list, name="error-codes")


_said_of = msgspec.json.Decoder(_Said).decode


class HumanCheck:
    """The service whose verify address is `url`, asked with our `secret`."""

    def __init__(self, url: str, secret: str) -> None:
        self._url, self._secret = url, secret
        self._asking = 0

    async def passed(self, response: str, address: str) -> bool:
        """Whether `response`, which came from `address` ("": not known), is of a human. Raises CheckAway."""
        if self._asking >= ASKING_MAX:
            raise CheckAway(f"{ASKING_MAX} questions to it are open")
        self._asking += 1
        try:
            said = await self._ask(
                {"secret": self._secret, "response": response, **({"remoteip": address} if address else {})}
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise CheckAway(f"{urlsplit(self._url).hostname}: {type(error).__name__} {error}".rstrip()) from None
        finally:
            self._asking -= 1
        if faults := OUR_FAULT.intersection(said.codes):
            raise CheckAway(
                f"it does not accept our questions ({', '.join(sorted(faults))}): look at `human_check_secret_file`"
            )
        return said.success

    async def _ask(self, form: dict[str, str]) -> _Said:
        async with (
            asyncio.timeout(ASK_S_MAX),
            aiohttp.ClientSession() as session,
            session.post(self._url, data=form, allow_redirects=False) as answer,
        ):
            body = bytearray()
            async for chunk in answer.content.iter_chunked(ANSWER_BYTES_MAX):
                body += chunk
                if len(body) > ANSWER_BYTES_MAX:
                    raise CheckAway(f"its answer is longer than {ANSWER_BYTES_MAX} bytes")
            try:
                # Wrong answers are told with 200 by some, and with 400 by others.
                return _said_of(bytes(body))
            except msgspec.DecodeError:
                raise CheckAway(f"its answer, {answer.status}, is none of such a service") from None


def check_of(settings: Settings) -> HumanCheck | None:
    """The service that the settings name, None without one. Raises SettingsError when there is no secret in its file."""
    if not settings.human_check_url:
        return None
    file = Path(settings.human_check_secret_file)
    try:
        secret = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"`human_check_secret_file`: {file} cannot be read: {error}") from None
    if not secret:
        raise SettingsError(
            f"`human_check_secret_file`: {file} is empty; put the secret that the service gave you in it"
        )
    return HumanCheck(settings.human_check_url, secret)
