"""The check for humans: a real service on this machine that says yes, no, nonsense or nothing, and who is asked for it."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from infra import human_check
from infra.database import Database
from infra.human_check import CheckAway, HumanCheck
from infra.settings import Settings, SettingsError
from services.accounts.humans import ACCOUNT_UNCHECKED_MAX, ADDRESS_UNCHECKED_MAX
from tests.people_support import PASSWORD
from tests.people_web_support import Answer, Served, people_api
from web.client.errors import HiveError
from web.client.people import Door

SECRET, SITE_KEY, HUMAN = "ours alone", "for pages", "a human's"
WRONG = "not the password"


class Service:
    """Says of each answer, once, whether it is HUMAN's; `says` makes another answer instead."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.used: set[str] = set()
        self.says: Callable[[], web.Response] | None = None
        self.url = ""

    async def verify(self, request: web.Request) -> web.Response:
        """As Turnstile's siteverify."""
        form = dict(await request.post())
        self.asked.append(form)
        if self.says is not None:
            return self.says()
        if form.get("secret") != SECRET:
            return web.json_response({"success": False, "error-codes": ["invalid-input-secret"]}, status=400)
        response = str(form.get("response"))
        passed = response.startswith(HUMAN) and response not in self.used
        self.used.add(response)
        codes = [] if passed else ["invalid-input-response"]
        return web.json_response({"success": passed, "error-codes": codes, "hostname": "here"})


@pytest.fixture
async def service() -> AsyncGenerator[Service]:
    made, app = Service(), web.Application()
    app.router.add_post("/siteverify", made.verify)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/siteverify"
    yield made
    await runner.cleanup()


@contextlib.asynccontextmanager
async def checked(root: Path, database: Database, url: str, **more: Any) -> AsyncGenerator[Served]:
    """A hive that asks the service at `url`."""
    secret = root / "secret"
    secret.write_text(f"{SECRET}\n")
    settings = {"human_check_url": url, "human_check_secret_file": str(secret), "human_check_site_key": SITE_KEY}
    async with people_api(root / "hive", database, **settings, **more) as served:
        yield served


def code(answer: Answer) -> tuple[int, str]:
    return answer[0], answer[1]["type"].rpartition(":")[2] if answer[0] >= 400 else ""


async def register(served: Served, name: str, human: str = "") -> Answer:
    return await served.ask("POST", "/v1/auth/register", {"name": name, "password": PASSWORD, "human": human})


async def log_in(served: Served, password: str, human: str = "") -> Answer:
    return await served.ask("POST", "/v1/auth/login", {"name": "ada", "password": password, "human": human})


async def test_who_registers_is_a_human(service: Service, tmp_path: Path, database: Database) -> None:
    async with checked(tmp_path, database, service.url) as served:
        status, options = await served.ask("GET", "/v1/auth/options")
        assert (status, options) == (200, {"registration": "open", "mail": False, "human_check_site_key": SITE_KEY})

        refused = await register(served, "ada")
        assert code(refused) == (403, "human-needed")
        assert (refused[1]["field"], "/v1/auth/options" in refused[1]["remedy"]) == ("human", True)
        assert service.asked == [], "nothing to ask it"
        assert code(await register(served, "ada", "a robot's")) == (403, "not-human")
        assert (await register(served, "ada", HUMAN))[0] == 201
        assert service.asked[-1] == {"secret": SECRET, "response": HUMAN, "remoteip": "127.0.0.1"}
        assert code(await register(served, "bob", HUMAN)) == (403, "not-human"), "an answer is good once"

        reset = await served.ask("POST", "/v1/auth/reset-request", {"email": "a@example.org"})
        assert code(reset) == (403, "human-needed")
        reset = await served.ask("POST", "/v1/auth/reset-request", {"email": "a@example.org", "human": f"{HUMAN} 2"})
        assert code(reset) == (409, "no-mail"), "the check was passed"


async def test_who_was_wrong_too_often_is_asked_and_others_are_not(
    service: Service, tmp_path: Path, database: Database
) -> None:
    async with checked(tmp_path, database, service.url) as served:
        await register(served, "ada", HUMAN)
        assert (await log_in(served, PASSWORD))[0] == 200, "who was never wrong is not asked"
        for _ in range(ACCOUNT_UNCHECKED_MAX):
            assert code(await log_in(served, WRONG)) == (401, "wrong-login")
        assert code(await log_in(served, PASSWORD)) == (403, "human-needed")
        assert code(await log_in(served, PASSWORD, "a robot's")) == (403, "not-human")
        assert code(await log_in(served, WRONG, f"{HUMAN} 1")) == (401, "wrong-login")
        assert (await log_in(served, PASSWORD, f"{HUMAN} 2"))[0] == 200
        assert (await log_in(served, PASSWORD))[0] == 200, "and once right, no more"

        for number in range(ADDRESS_UNCHECKED_MAX):
            await served.ask("POST", "/v1/auth/login", {"name": f"somebody{number}", "password": WRONG})
        assert code(await log_in(served, PASSWORD)) == (403, "human-needed"), "so is an address that tried many names"


@pytest.mark.parametrize(
    "says",
    [
        lambda: web.Response(status=500, text="oh"),
        lambda: web.Response(text="<html>"),
        lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
        lambda: web.json_response({"success": True, "fill": "x" * human_check.ANSWER_BYTES_MAX}),
        lambda: web.json_response({"success": False, "error-codes": ["invalid-input-secret"]}),
    ],
    ids=["500", "html", "redirect", "long", "secret"],
)
async def test_nonsense_is_neither_yes_nor_no(service: Service, says: Callable[[], web.Response]) -> None:
    service.says = says
    with pytest.raises(CheckAway):
        await HumanCheck(service.url, SECRET).passed(HUMAN, "")


async def test_with_the_service_away_nobody_registers_unless_the_operator_says_so(
    service: Service, tmp_path: Path, database: Database
) -> None:
    service.says = lambda: web.Response(status=503)
    async with checked(tmp_path, database, service.url) as served:
        assert code(await register(served, "ada", HUMAN)) == (503, "human-check-away")
        assert code(await register(served, "ada")) == (403, "human-needed")
        assert (await served.admin("GET", "/v1/users"))[1]["users"][1:] == []


async def test_a_check_that_is_not_required_lets_people_through_while_it_is_away(
    service: Service, tmp_path: Path, database: Database
) -> None:
    async with checked(tmp_path, database, service.url, human_check_required=False) as served:
        assert code(await register(served, "ada", "a robot's")) == (403, "not-human"), (
            "it is asked as long as it answers"
        )
        service.says = lambda: web.Response(status=503)
        assert (await register(served, "ada", "a robot's"))[0] == 201


async def test_a_service_that_says_nothing_is_waited_for_so_long(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(human_check, "ASK_S_MAX", 0.0)
    with pytest.raises(CheckAway, match="Timeout"):
        await HumanCheck(service.url, SECRET).passed(HUMAN, "")


async def test_so_many_are_asked_at_once_and_no_more(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(human_check, "ASKING_MAX", 0)
    with pytest.raises(CheckAway, match="are open"):
        await HumanCheck(service.url, SECRET).passed(HUMAN, "")
    assert service.asked == []


@pytest.mark.parametrize("text", ["", None])
def test_a_secret_that_is_not_there_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "secret").write_text(text)
    settings = Settings(
        human_check_url="https://check.example/",
        human_check_secret_file=str(tmp_path / "secret"),
        human_check_site_key="k",
    )
    with pytest.raises(SettingsError, match="human_check_secret_file"):
        human_check.check_of(settings)


async def test_a_client_says_what_the_check_gave(service: Service, tmp_path: Path, database: Database) -> None:
    async with checked(tmp_path, database, service.url) as served:
        door = Door(served.url)
        with pytest.raises(HiveError, match="--human"):
            await door.register("ada", PASSWORD)
        assert await door.register("ada", PASSWORD, human=f"{HUMAN} 1")
        for _ in range(ACCOUNT_UNCHECKED_MAX):
            await log_in(served, WRONG)
        with pytest.raises(HiveError):
            await door.log_in("ada", PASSWORD)
        assert (await door.log_in("ada", PASSWORD, f"{HUMAN} 2")).access
