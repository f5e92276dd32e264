"""The demo, step by step: see `Demo.run`, which is its own table of contents."""

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from events.spec import Each, Input, JobSpec
from events.task import Detail
from events.units import size_text
from infra import settings as settings_
from infra.folder import Folder
from services.cli import demo_input, demo_tasks, format, hints
from services.cli.children import Child, until
from services.cli.demo_money import OWNERS, Purses
from services.cli.failure import Exit, Failure
from services.cli.output import Output

if TYPE_CHECKING:
    from web.client import AsyncHive
    from web.schema import Job

WORKERS = 2
START_S_MAX = 60.0
JOB_S_MAX = 600.0
UPLOADS_MAX = 16
LOOK_S = 0.2
SAMPLE_S = 1.0
TOP = 8
TIME_LIMIT_S = 120.0
"""Of each task: it bounds what the demo can cost."""
PROGRAMS = Path(demo_tasks.__file__).parent
PYTHON = [sys.executable, "-I", "-S"]
"""Without site packages: an interpreter that starts quickly, and sees nothing of this machine but its library."""


class Demo:
    """One run."""

    def __init__(self, output: Output, folder: Folder) -> None:
        self._output, self._folder = output, folder
        self._children: list[Child] = []
        self._url = ""
        self._began = time.monotonic()

    async def run(self) -> int:
        """Everything, in order; whatever happens, nothing that was started is left running."""
        from web.client import AsyncHive

        try:
            await self._start_platform()
            async with AsyncHive(self._url, self._folder.admin_key()) as hive:
                purses = Purses(hive, self._output)
                await self._start_workers(hive, await purses.owners())
                shares = demo_input.deal(demo_input.find_sources())
                digests = await self._upload(hive, shares)
                array_spec, merge_spec = await self._array(hive, shares, digests), self._merge(digests)
                self._step(f"Quoted: both jobs cost {await purses.quote([array_spec, merge_spec])}")
                array = await self._submit_array(hive, array_spec)
                merge = await self._submit_merge(hive, merge_spec, array)
                await self._follow(hive, array, len(shares))
                await self._conclude(hive, merge)
                await self._show_result(hive, merge)
                await self._show_workers(hive, array)
                await purses.settled([array, merge])
                await purses.show()
                self._step(await purses.tip())
                position = (await hive.status()).position
                self._output.line(f"Log position: {position}")
            await self._prove()
        finally:
            await asyncio.shield(self._stop())
        self._say_goodbye()
        return Exit.OK

    def _step(self, text: str) -> None:
        self._output.note(f"{self._output.paint(f'[{time.monotonic() - self._began:4.1f}s]', 'dim')} {text}")

    def _child(self, what: str, *words: str, key: str = "") -> Child:
        log = self._folder.path("demo", f"{what.replace(' ', '-')}.log")
        environ = {"HIVE_DATA": str(self._folder.root)} | ({"HIVE_URL": self._url} if self._url else {})
        environ |= {"HIVE_KEY": key} if key else {}
        child = Child(what, list(words), log, environ)
        self._children.append(child)
        return child

    async def _start_platform(self) -> None:
        self._step(f"Starting a control plane with its own nats-server and Postgres in {self._folder.root}")
        platform = await self._child("control plane", "serve", "--port", "0").start()

        async def ready() -> bool:
            running = self._folder.running()
            self._url = running.url if running else ""
            return bool(self._url)

        await until("the control plane", ready, [platform], START_S_MAX)
        self._step(f"It answers at {self._url}")

    async def _start_workers(self, hive: "AsyncHive", keys: list[str]) -> None:
        cpus = max((os.cpu_count() or 1) / WORKERS, 1)
        for number, key in enumerate(keys, 1):
            state = self._folder.path("workers", f"demo-{number}")
            words = ("worker", "run", "--name", f"demo-{number}", "--state", str(state), "--cpus", f"{cpus:g}")
            # Its tasks are our own and run this very interpreter, wherever on the machine that lies.
            await self._child(f"worker {number}", *words, "--isolation", "none", key=key).start()

        async def ready() -> bool:
            return sum(worker.state == "ready" for worker in await hive.workers()) >= WORKERS

        await until("two workers", ready, self._children, START_S_MAX)
        self._step(f"{WORKERS} workers are ready, each a process of its own, and {' and '.join(OWNERS)}'s")

    async def _upload(self, hive: "AsyncHive", shares: list[list[demo_input.Source]]) -> dict[str, str]:
        """Upload every source and program; digests by name."""
        paths = {source.name: source.path for share in shares for source in share}
        size = sum(source.size for share in shares for source in share)
        paths |= {program: PROGRAMS / program for program in ("index.py", "merge.py")}
        digests: dict[str, str] = {}
        turn = asyncio.Semaphore(UPLOADS_MAX)
        with self._output.progress("upload", len(paths)) as bar:

            async def one(name: str, path: Path) -> None:
                async with turn:
                    digests[name] = (await hive.upload(path)).digest
                bar.update(len(digests))

            async with asyncio.TaskGroup() as group:
                for name, path in paths.items():
                    group.create_task(one(name, path))
        sources = format.count(sum(map(len, shares)), "file")
        self._step(
            f"Uploaded {sources} of the standard library, {size_text(size)}, and the two programs that read them"
        )
        return digests

    async def _array(
        self, hive: "AsyncHive", shares: list[list[demo_input.Source]], digests: dict[str, str]
    ) -> JobSpec:
        each = [Each(inputs=[Input(f"src/{s.name}", digest=digests[s.name]) for s in share]) for share in shares]
        return JobSpec(
            command=[*PYTHON, "index.py"],
            name="demo: index the standard library",
            count=len(shares),
            inputs=[Input("index.py", digest=digests["index.py"])],
            each=(await hive.upload(msgspec.json.encode(each))).digest,
            results=["index.json"],
            labels={"demo": "index"},
            time_limit=TIME_LIMIT_S,
        )

    async def _submit_array(self, hive: "AsyncHive", spec: JobSpec) -> str:
        submitted = await hive.submit_spec(spec)
        self._step(f"Submitted {submitted.job}: an array of {format.count(spec.count, 'task')}, each a process")
        return submitted.job

    def _merge(self, digests: dict[str, str]) -> JobSpec:
        return JobSpec(
            command=[*PYTHON, "merge.py"],
            name="demo: merge the parts",
            inputs=[Input("merge.py", digest=digests["merge.py"])],
            results=["index.json"],
            labels={"demo": "merge"},
            time_limit=TIME_LIMIT_S,
        )

    async def _submit_merge(self, hive: "AsyncHive", spec: JobSpec, array: str) -> str:
        inputs = [*spec.inputs, Input("parts", job=array)]
        submitted = await hive.submit_spec(msgspec.structs.replace(spec, inputs=inputs, after=[array]))
        self._step(f"Submitted {submitted.job}: one task that waits for all of them and merges what they found")
        return submitted.job

    async def _follow(self, hive: "AsyncHive", array: str, count: int) -> None:
        """Progress until the array has ended, with a line of some task's output each second."""
        before = {worker.worker: worker.finished for worker in await hive.workers()}
        deadline, sample = time.monotonic() + JOB_S_MAX, time.monotonic() + SAMPLE_S
        with self._output.progress("index", count) as bar:
            while True:
                job, workers = await hive.job(array), await hive.workers()
                done = job.succeeded + job.failed + job.cancelled
                counts = [w.finished - before.get(w.worker, 0) for w in workers if w.state == "ready"]
                bar.update(done, "by worker: " + " + ".join(map(str, counts)))
                if job.finished_at:
                    break
                for child in self._children:
                    child.check()
                if time.monotonic() > deadline:
                    raise Failure(f"the array did not end within {JOB_S_MAX:g} s", f"hivectl job show {array}")
                if done and time.monotonic() > sample:
                    sample = time.monotonic() + SAMPLE_S
                    bar.say(await self._sample(hive, array, done))
                await asyncio.sleep(LOOK_S)
        await self._expect(hive, job)

    async def _sample(self, hive: "AsyncHive", array: str, done: int) -> str:
        page = await hive.tasks(array, state="succeeded", after=max(done - WORKERS * 2, 0) - 1, limit=1)
        if not page.tasks:
            return ""
        index = page.tasks[0].index
        said = b"".join([piece.data async for piece in hive.logs(array, index)])
        return f"  task {index} says: {format.plain(said.decode(errors='replace').strip())}"

    async def _expect(self, hive: "AsyncHive", job: "Job") -> None:
        """Raise Failure unless the job succeeded, with what its first failed task said."""
        if job.state == "succeeded":
            return
        said = b""
        if failed := (await hive.tasks(job.job, state="failed", limit=1)).tasks:
            said = b"".join([piece.data async for piece in hive.logs(job.job, failed[0].index)])
        raise Failure(
            f"{job.job} {job.state}: {job.reason}\n{said.decode(errors='replace')}".rstrip(),
            f"look at it with `make up` and `hivectl job tasks {job.job} --state failed`",
            Exit.JOB_FAILED,
        )

    async def _conclude(self, hive: "AsyncHive", merge: str) -> None:
        self._step("All tasks have succeeded; the merge runs with their results as its input:")
        async for piece in hive.logs(merge, 0, follow=True):
            for line in piece.data.decode(errors="replace").splitlines():
                if not line.startswith("{"):
                    self._output.note(f"  {format.plain(line)}")
        await self._expect(hive, await hive.wait(merge))

    async def _show_result(self, hive: "AsyncHive", merge: str) -> None:
        results = [result async for result in hive.results(merge)]
        kept = self._folder.path("demo", "index.json")
        await hive.download(results[0].digest, kept)
        index: dict[str, Any] = msgspec.json.decode(kept.read_bytes())
        lines = sum(file["lines"] for file in index["files"])
        top = list(index["uses"].items())[:TOP]
        self._output.line()
        self._output.line("Result")
        self._output.facts(
            [
                ("  files", f"{len(index['files']):,}"),
                ("  lines", f"{lines:,}"),
                ("  names defined", f"{len(index['definitions']):,}"),
                ("  most used", ", ".join(f"{name} {count:,}" for name, count in top)),
                ("  index", f"{kept} ({size_text(kept.stat().st_size)}, blob {results[0].digest[:12]}...)"),
            ]
        )

    async def _show_workers(self, hive: "AsyncHive", array: str) -> None:
        done: dict[str, list[Detail]] = {}
        after: int | None = -1
        while after is not None:
            page = await hive.tasks(array, after=after, limit=1000)
            for task in page.tasks:
                done.setdefault(task.worker, []).append(task.detail or Detail())
            after = page.next
        rows = [
            (
                worker,
                str(len(details)),
                format.span(sum(detail.cpu_ms for detail in details) / 1000),
                format.span(sum(detail.wall_ms for detail in details) / 1000),
                size_text(max(detail.memory_peak for detail in details)),
            )
            for worker, details in sorted(done.items())
        ]
        self._output.line()
        self._output.table(("WORKER", "TASKS", "CPU", "WALL", "MOST MEMORY"), rows)
        self._output.line()

    async def _prove(self) -> None:
        """Fold the log from its first event in a fresh process, and compare with the live state."""
        self._step("Folding the log from its first event in a fresh process")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "services.cli.main", "prove", "--data", str(self._folder.root)),
            env={**self._children[0].environ, "HIVE_URL": self._url},
        )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        if code:
            raise Failure("the proof failed: see above", "keep the data folder and report it", code)

    async def _stop(self) -> None:
        """Workers first: they say good-bye to the control plane."""
        await asyncio.gather(*(child.stop() for child in self._children[1:]))
        for child in self._children[:1]:
            await child.stop()

    def _say_goodbye(self) -> None:
        self._step("Done; everything that was started is stopped again.")
        hivectl = hints.invocation(self._folder)
        made = Path("Makefile").exists() and hints.is_default(self._folder)
        port = settings_.load(self._folder.root).port
        self._output.line("Look around:")
        for words, what in (
            ("make up" if made else f"{hivectl} up", f"goes on with this data at http://127.0.0.1:{port}"),
            (f"{hivectl} jobs", "in another terminal: both jobs"),
            (f"{hivectl} tail --since 10m", "every event of this run, then what comes"),
        ):
            self._output.line(f"  {self._output.paint(words, 'bold')}  - {what}")
