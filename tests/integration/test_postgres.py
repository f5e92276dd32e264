"""The embedded Postgres: rows survive every death, orphans are found again, and nobody else gets in."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from infra import postgres_system
from infra.postgres import Postgres, PostgresError
from infra.postgres_system import RunAs, as_user, in_namespace

ROOT = Path(__file__).parent.parent.parent
WAIT_S = 60.0
NOBODY = pwd.getpwnam("nobody").pw_uid
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster as initdb made it, to be copied."""
    data = tmp_path_factory.mktemp("fresh")

    async def make() -> None:
        postgres = Postgres(data)
        await postgres.start()
        await postgres.stop()

    asyncio.run(make())
    return data / "pg" / "cluster"


@pytest.fixture
def made(tmp_path: Path, fresh: Path) -> None:
    """A cluster in `tmp_path` that was not started yet: quicker than initdb."""
    (tmp_path / "pg").mkdir(mode=0o700)
    shutil.copytree(fresh, tmp_path / "pg" / "cluster")


@pytest.fixture
async def postgres(tmp_path: Path) -> AsyncIterator[Postgres]:
    made = Postgres(tmp_path)
    yield made
    await made.stop()


async def query(dsn: str, *statements: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return [await connection.fetch(statement) for statement in statements][-1]
    finally:
        await connection.close()


async def write(dsn: str, number: int) -> None:
    await query(dsn, "CREATE TABLE IF NOT EXISTS kept (n int)", f"INSERT INTO kept VALUES ({number})")


async def numbers(dsn: str) -> list[int]:
    return [row["n"] for row in await query(dsn, "SELECT n FROM kept ORDER BY n")]


async def gone(pid: int) -> None:
    """Wait until the process has ended, whoever its parent is."""
    async with asyncio.timeout(WAIT_S):
        with contextlib.suppress(psutil.NoSuchProcess):
            while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.005)


async def test_starts_stops_and_starts_again_with_its_rows(postgres: Postgres) -> None:
    with pytest.raises(PostgresError, match="not started"):
        _ = postgres.dsn
    await postgres.start()
    await write(postgres.dsn, 1)
    pid = postgres.pid
    await postgres.stop()
    assert not postgres.alive
    assert not psutil.pid_exists(pid)
    await postgres.start()
    assert await numbers(postgres.dsn) == [1]


async def test_is_made_as_promised(postgres: Postgres, tmp_path: Path) -> None:
    await postgres.start()
    names = ("fsync", "data_checksums", "listen_addresses", "server_encoding", "TimeZone", "max_connections")
    found = [(await query(postgres.dsn, f"SHOW {name}"))[0][0] for name in names]
    assert found == ["on", "on", "", "UTF8", "UTC", "40"]
    ordered = await query(postgres.dsn, "SELECT n FROM (VALUES ('b'), ('ä'), ('B'), ('a')) AS v (n) ORDER BY n")
    assert [row[0] for row in ordered] == ["B", "a", "b", "ä"]


async def test_is_closed_to_others(postgres: Postgres, tmp_path: Path) -> None:
    await postgres.start()
    home = tmp_path / "pg"
    for path in (home, home / "cluster", home / "run"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "postgres.log").stat().st_mode) == 0o600
    assert not [c for c in psutil.Process(postgres.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]


@pytest.mark.usefixtures("made")
async def test_a_session_of_its_own_keeps_ctrl_c_away(postgres: Postgres) -> None:
    await postgres.start()
    assert os.getsid(postgres.pid) == postgres.pid != os.getsid(0)


@pytest.mark.usefixtures("made")
async def test_the_log_never_shows_what_was_asked(postgres: Postgres, tmp_path: Path) -> None:
    await postgres.start()
    with pytest.raises(asyncpg.PostgresError):
        await query(postgres.dsn, "SELECT 'a secret' FROM nowhere")
    assert "a secret" not in (tmp_path / "pg" / "postgres.log").read_text()


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("whom", ["server", "all"])
async def test_killed_it_comes_back_with_its_rows(postgres: Postgres, whom: str) -> None:
    await postgres.start()
    assert not await postgres.ensure()
    for turn in range(3):
        await write(postgres.dsn, turn)
        pid = postgres.pid
        victims = [psutil.Process(pid), *(psutil.Process(pid).children() if whom == "all" else [])]
        for victim in victims:
            postgres_system.send(victim, signal.SIGKILL)
        await gone(pid)
        assert not postgres.alive
        assert await postgres.ensure()
        assert postgres.pid != pid
        assert await numbers(postgres.dsn) == list(range(turn + 1))


@pytest.mark.usefixtures("made")
async def test_two_that_look_after_it_start_it_once(postgres: Postgres) -> None:
    await postgres.start()
    pid = postgres.pid
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    assert sorted(await asyncio.gather(*(postgres.ensure() for _ in range(5)))) == [False] * 4 + [True]


@pytest.mark.usefixtures("made")
async def test_stopped_it_stays_stopped(postgres: Postgres) -> None:
    await postgres.start()
    await postgres.stop()
    assert not await postgres.ensure()
    assert not postgres.alive


@pytest.mark.usefixtures("made")
async def test_a_busy_backend_of_a_dead_server_does_not_block_the_next(postgres: Postgres) -> None:
    await postgres.start()
    connection = await asyncpg.connect(postgres.dsn)
    backend = connection.get_server_pid()
    os.kill(backend, signal.SIGSTOP)  # it will not notice that its server dies
    pid = postgres.pid
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    patch = pytest.MonkeyPatch()
    patch.setattr(postgres_system, "SWEEP_S", 0.2)
    try:
        assert await postgres.ensure()
    finally:
        patch.undo()
    await gone(backend)
    connection.terminate()


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("stale", ["torn", "empty", "pid of another", "pid of nobody"])
async def test_a_stale_pid_file_is_no_obstacle(postgres: Postgres, tmp_path: Path, stale: str) -> None:
    await postgres.start()
    await write(postgres.dsn, 1)
    pid_file = tmp_path / "pg" / "cluster" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid = postgres.pid
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    other = await asyncio.create_subprocess_exec("sleep", "1000")
    names = {"torn": lines[0][:-1], "empty": "", "pid of another": str(other.pid), "pid of nobody": "2000000000"}
    pid_file.write_text(names[stale] if stale in ("torn", "empty") else "\n".join([names[stale], *lines[1:]]))
    sockets = tmp_path / "pg" / "run"
    (sockets / ".s.PGSQL.5432.lock").write_text(f"{other.pid}\n")
    try:
        await postgres.start()
        assert await numbers(postgres.dsn) == [1]
        assert other.returncode is None
    finally:
        other.kill()
        await other.wait()


async def test_an_interrupted_initdb_is_begun_anew(postgres: Postgres, tmp_path: Path) -> None:
    half = tmp_path / "pg" / "cluster.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    await postgres.start()
    assert not half.exists()


@pytest.mark.usefixtures("made")
async def test_a_server_with_other_options_is_replaced(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    await postgres.start()
    await write(postgres.dsn, 1)
    pid = postgres.pid
    monkeypatch.setitem(Postgres._start.__globals__["SETTINGS"], "max_connections", "39")
    second = Postgres(Path(postgres._home).parent)
    await second.start()
    try:
        assert second.pid != pid
        assert (await query(second.dsn, "SHOW max_connections"))[0][0] == "39"
        assert await numbers(second.dsn) == [1]
    finally:
        await second.stop()


async def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    data = tmp_path / ("x" * 100)
    postgres = Postgres(data)
    await postgres.start()
    try:
        await write(postgres.dsn, 1)
        sockets = Path((data / "pg" / "socket-folder").read_text())
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert str(data) not in postgres.dsn
        second = Postgres(data)
        await second.start()
        assert (second.dsn, second.pid) == (postgres.dsn, postgres.pid)
    finally:
        await postgres.stop()
    assert not sockets.exists()


async def test_a_path_with_odd_characters(tmp_path: Path) -> None:
    postgres = Postgres(tmp_path / "a b,c'd%20&e=ü")
    await postgres.start()
    await write(postgres.dsn, 1)
    assert await numbers(postgres.dsn) == [1]
    await postgres.stop()


async def test_a_cluster_of_an_unknown_version_is_named(postgres: Postgres, tmp_path: Path) -> None:
    (tmp_path / "pg" / "cluster").mkdir(parents=True)
    (tmp_path / "pg" / "cluster" / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresError, match=r"made by Postgres 9.*HIVE_POSTGRES_DSN"):
        await postgres.start()


@pytest.mark.usefixtures("made")
async def test_a_server_that_cannot_start_says_why(postgres: Postgres, tmp_path: Path) -> None:
    await postgres.start()
    await postgres.stop()
    (tmp_path / "pg" / "cluster" / "global" / "pg_control").write_bytes(b"")
    with pytest.raises(PostgresError, match=r"ended while it started.*pg_control"):
        await postgres.start()


@as_root
async def test_as_root_without_namespaces(tmp_path: Path) -> None:
    """Below a folder that only root may pass, as in a container; and its files' owner decides from then on."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    postgres = Postgres(closed, as_user(NOBODY))
    await postgres.start()
    await write(postgres.dsn, 1)
    assert psutil.Process(postgres.pid).uids().real == NOBODY
    await postgres.stop()
    second = Postgres(closed)
    await second.start()
    try:
        assert await numbers(second.dsn) == [1]
        assert psutil.Process(second.pid).uids().real == NOBODY
    finally:
        await second.stop()


@as_root
def test_as_root_with_neither_way_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("in_namespace", "as_user"):
        monkeypatch.setattr(postgres_system, name, lambda *_: RunAs(("false",), 1, 1))
    with pytest.raises(PostgresError, match=r"ordinary user.*HIVE_POSTGRES_DSN"):
        postgres_system.run_as(tmp_path / "cluster")


@as_root
def test_the_two_ways_of_root_are_what_they_say() -> None:
    script = "id -u; grep -c . /proc/self/uid_map"
    for way, uid in ((in_namespace(), NOBODY), (as_user(NOBODY), NOBODY)):
        out = subprocess.run([*way.prefix, "sh", "-c", script], capture_output=True, text=True, check=True).stdout
        assert out.split()[0] == str(uid)


class Keeper:
    """A process that keeps a Postgres, to be killed."""

    def __init__(self, folder: Path, uid: int | None = None) -> None:
        command = [sys.executable, str(Path(__file__).with_name("postgres_as.py")), str(folder)]
        self.process = subprocess.Popen(
            command + ([str(uid)] if uid is not None else []),
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    async def started(self) -> tuple[str, int]:
        assert self.process.stdout
        line = await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), WAIT_S)
        dsn, pid = line.split() if not line.startswith("error") else pytest.fail(line)
        return dsn, int(pid)

    async def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        await asyncio.to_thread(self.process.wait, WAIT_S)
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user can get to."""
    path = Path(tempfile.mkdtemp(prefix="hive-test-"))
    path.chmod(0o755)
    yield path
    for data in (path, path / "data"):  # what a failed test left running
        for process in psutil.process_iter():
            if postgres_system.works_in(process, data / "pg" / "cluster"):
                process.kill()
    shutil.rmtree(path)


@pytest.mark.parametrize("uid", [None, pytest.param(NOBODY, marks=as_root)])
async def test_an_orphan_is_adopted_with_its_rows(reachable: Path, uid: int | None) -> None:
    data = reachable / "data"
    data.mkdir(mode=0o700)
    if uid is not None:
        os.chown(data, uid, uid)
    first = Keeper(data, uid)
    dsn, pid = await first.started()
    await write(dsn, 1)
    connection = await asyncpg.connect(dsn)
    await first.end(signal.SIGKILL)
    assert await connection.fetchval("SELECT 1") == 1
    second = Keeper(data, uid)
    assert await second.started() == (dsn, pid)
    assert await connection.fetchval("SELECT count(*) FROM kept") == 1
    await connection.close()
    assert psutil.Process(pid).uids().real == (uid if uid is not None else os.getuid())
    await second.end(signal.SIGTERM)
    assert second.process.returncode == 0
    await gone(pid)
    third = Keeper(data, uid)
    assert (await third.started())[0] == dsn
    assert await numbers(dsn) == [1]
    await third.end(signal.SIGTERM)


@as_root
async def test_a_folder_of_another_user_is_used_as_that_user(reachable: Path) -> None:
    data = reachable / "data"
    data.mkdir(mode=0o700)
    os.chown(data, NOBODY, NOBODY)
    first = Keeper(data, NOBODY)
    dsn, _ = await first.started()
    await write(dsn, 1)
    await first.end(signal.SIGTERM)
    postgres = Postgres(data)
    await postgres.start()
    try:
        assert await numbers(postgres.dsn) == [1]
        assert psutil.Process(postgres.pid).uids().real == NOBODY
    finally:
        await postgres.stop()


@as_root
async def test_others_do_not_get_in(reachable: Path) -> None:
    postgres = Postgres(reachable)
    await postgres.start()
    path = str(reachable / "pg" / "run" / ".s.PGSQL.5432")
    try:
        with socket.socket(socket.AF_UNIX) as mine:
            mine.connect(path)
        tried = await asyncio.create_subprocess_exec("test", "-e", path, user=NOBODY, group=NOBODY)
        assert await tried.wait() == 1
    finally:
        await postgres.stop()
