"""The container engine of this machine, a typed façade over aiodocker. One engine, over its local socket."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from typing import Any

import aiodocker
import aiohttp
import msgspec

CONNECT_S = 3.0
ASK_S = 60.0
PULL_SILENT_S = 300.0
NOT_FOUND = 404


class EngineError(Exception):
    """The engine refused; `status` is HTTP's (0: it did not answer)."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Ended(msgspec.Struct, frozen=True, gc=False):
    """A container that is no longer running."""

    code: int
    oom: bool
    error: str


class Used(msgspec.Struct, frozen=True, gc=False):
    """What a running container has used so far: CPU in ms, and memory in bytes."""

    cpu_ms: int
    memory: int


class About(msgspec.Struct, frozen=True, gc=False):
    """What an engine can do. `init`: it has a first process that passes signals on and reaps; `rootless`: its root is the
    user that it runs as.
    """

    init: bool = False
    rootless: bool = False
    memory: bool = True
    swap: bool = True
    pids: bool = True
    cgroup: int = 1


class Pulled(msgspec.Struct, frozen=True, gc=False):
    """How far a fetch is: bytes, of those known so far, in so many layers."""

    done: int
    size: int
    layers: int


def _error(error: Exception) -> EngineError:
    if isinstance(error, aiodocker.DockerError):
        return EngineError(int(error.status), str(error.message))
    return EngineError(0, f"the container engine does not answer: {error}")


_FAILURES = (aiodocker.DockerError, aiohttp.ClientError, OSError, ValueError)


class Attached:
    """The output of a container, from before its start."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def read(self) -> AsyncIterator[tuple[int, bytes]]:
        """Its stdout (1) and stderr (2), as they come, to the end. Raises EngineError."""
        try:
            while (message := await self._stream.read_out()) is not None:
                yield int(message.stream), bytes(message.data)
        except _FAILURES as error:
            raise _error(error) from None

    async def close(self) -> None:
        """Hang up."""
        # aiodocker asserts that the connection is there, which it is not once the container ended.
        with contextlib.suppress(AssertionError, *_FAILURES):
            await self._stream.close()


class Engine:
    """A connected engine; `await Engine.find()`."""

    def __init__(self, docker: Any, version: str) -> None:
        self._docker, self.version = docker, version

    @classmethod
    async def find(cls) -> "Engine | None":
        """The engine that answers on this machine (DOCKER_HOST or the usual socket), if there is one."""
        docker: Any = None
        try:
            timeout = aiohttp.ClientTimeout(total=ASK_S, sock_connect=CONNECT_S)
            docker = aiodocker.Docker(timeout=timeout)
            found: dict[str, Any] = await docker.version()
        except (*_FAILURES, TimeoutError, AssertionError):  # it asserts that there is a socket to be found
            if docker is not None:
                await docker.close()
            return None
        return cls(docker, str(found.get("Version", "")))

    async def close(self) -> None:
        """Hang up."""
        await self._docker.close()

    async def create(self, name: str, config: dict[str, Any]) -> str:
        """A new container's id. Raises EngineError; status 404: its image is not here."""
        try:
            return str((await self._docker.containers.create(config, name=name)).id)
        except _FAILURES as error:
            raise _error(error) from None

    async def about(self) -> About:
        """What it can do. Raises EngineError."""
        try:
            found: dict[str, Any] = await self._docker.system.info()
        except _FAILURES as error:
            raise _error(error) from None
        options: list[str] = found.get("SecurityOptions") or []
        return About(
            bool(found.get("InitBinary")) and shutil.which(str(found["InitBinary"])) is not None,
            any("rootless" in option for option in options),
            bool(found.get("MemoryLimit", True)),
            bool(found.get("SwapLimit", True)),
            bool(found.get("PidsLimit", True)),
            int(found.get("CgroupVersion") or 1),
        )

    async def image_id(self, image: str) -> str:
        """The id of an image that is here; "" when it is not. Raises EngineError."""
        try:
            return str((await self._docker.images.inspect(image))["Id"])
        except aiodocker.DockerError as error:
            if error.status == NOT_FOUND:
                return ""
            raise _error(error) from None
        except _FAILURES as error:
            raise _error(error) from None

    async def pull(self, image: str, login: str = "") -> AsyncIterator[Pulled]:
        """Fetch an image, with NAME:PASSWORD where its registry wants one; how far it is, now and then, until it is here.
        Raises EngineError, also when nothing was heard for PULL_SILENT_S.
        """
        name, _, password = login.partition(":")
        auth = {"username": name, "password": password} if login else None
        layers: dict[str, tuple[int, int]] = {}
        try:
            said = aiter(self._docker.images.pull(image, auth=auth, stream=True))
            while True:
                async with asyncio.timeout(PULL_SILENT_S):
                    told: dict[str, Any] | None = await anext(said, None)
                if told is None:
                    return
                detail: dict[str, Any] = told.get("progressDetail") or {}
                if detail.get("total") and told.get("status") == "Downloading":
                    layers[str(told.get("id"))] = int(detail["current"]), int(detail["total"])
                elif told.get("id") in layers and told.get("status") in ("Download complete", "Pull complete"):
                    whole = layers[str(told["id"])][1]
                    layers[str(told["id"])] = whole, whole
                yield Pulled(
                    sum(one[0] for one in layers.values()), sum(one[1] for one in layers.values()), len(layers)
                )
        except TimeoutError:
            raise EngineError(0, f"nothing came for {PULL_SILENT_S:g} s") from None
        except _FAILURES as error:
            raise _error(error) from None

    async def add_network(self, name: str, labels: dict[str, str]) -> str:
        """A network of its own for one container; its id. Raises EngineError."""
        config = {
            "Name": name,
            "Driver": "bridge",
            "CheckDuplicate": True,
            "Labels": labels,
            "Options": {"com.docker.network.bridge.enable_icc": "false"},
        }
        try:
            return str((await self._docker.networks.create(config)).id)
        except _FAILURES as error:
            raise _error(error) from None

    async def remove_network(self, network: str) -> None:
        """Remove it; nothing when it is gone. Raises EngineError."""
        try:
            await self._docker._query_json(f"networks/{network}", method="DELETE")  # noqa: SLF001 - no public call has it
        except aiodocker.DockerError as error:
            if error.status != NOT_FOUND:
                raise _error(error) from None
        except _FAILURES as error:
            raise _error(error) from None

    async def networks(self, label: str) -> list[str]:
        """The ids of all networks with this label (`name=value`). Raises EngineError."""
        try:
            found: list[dict[str, Any]] = await self._docker.networks.list(filters={"label": [label]})
        except _FAILURES as error:
            raise _error(error) from None
        return [str(network["Id"]) for network in found]

    async def pid(self, container: str) -> int:
        """The process of this machine that is its first; 0: it does not run. Raises EngineError."""
        try:
            shown: dict[str, Any] = await self._docker.containers.container(container).show()
        except _FAILURES as error:
            raise _error(error) from None
        return int(shown["State"]["Pid"])

    async def attach(self, container: str) -> Attached:
        """Listen to a container that has not started. Raises EngineError."""
        try:
            stream = self._docker.containers.container(container).attach(stdout=True, stderr=True)
            await stream.__aenter__()  # reads nothing yet, but is listening when this returns
        except _FAILURES as error:
            raise _error(error) from None
        return Attached(stream)

    async def start(self, container: str) -> None:
        """Start it. Raises EngineError, with what the engine says of a command that it cannot run."""
        try:
            await self._docker.containers.container(container).start()
        except _FAILURES as error:
            raise _error(error) from None

    async def wait(self, container: str) -> Ended:
        """How it ended, once it has. Raises EngineError."""
        try:
            found = self._docker.containers.container(container)
            await found.wait()
            state: dict[str, Any] = (await found.show())["State"]
        except _FAILURES as error:
            raise _error(error) from None
        return Ended(int(state["ExitCode"]), bool(state.get("OOMKilled")), str(state.get("Error", "")))

    async def used(self, container: str) -> Used:
        """What it has used. Raises EngineError."""
        try:
            params = {"stream": "false", "one-shot": "true"}
            # aiodocker's own call takes two samples, a second apart.
            ask: Any = self._docker._query_json  # noqa: SLF001 - there is no public call for one sample
            found: dict[str, Any] = await ask(f"containers/{container}/stats", params=params)
        except _FAILURES as error:
            raise _error(error) from None
        memory: dict[str, Any] = found.get("memory_stats") or {}
        stats: dict[str, Any] = found.get("cpu_stats") or {}
        cpu: dict[str, Any] = stats.get("cpu_usage") or {}
        most = memory.get("max_usage") or memory.get("usage") or 0
        return Used(int(cpu.get("total_usage", 0)) // 1_000_000, int(most))

    async def signal(self, container: str, name: str) -> None:
        """Send a signal to its first process; nothing when it has ended. Raises EngineError."""
        try:
            await self._docker.containers.container(container).kill(signal=name)
        except aiodocker.DockerError as error:
            if error.status not in (404, 409):
                raise _error(error) from None
        except _FAILURES as error:
            raise _error(error) from None

    async def remove(self, container: str) -> None:
        """Kill and remove it, with its volumes; nothing when it is gone. Raises EngineError."""
        try:
            await self._docker.containers.container(container).delete(force=True, v=True)
        except aiodocker.DockerError as error:
            if error.status not in (404, 409):
                raise _error(error) from None
        except _FAILURES as error:
            raise _error(error) from None

    async def labelled(self, label: str) -> list[str]:
        """The ids of all containers with this label (`name=value`), running or not. Raises EngineError."""
        try:
            filters = msgspec.json.encode({"label": [label]}).decode()
            found: list[Any] = await self._docker.containers.list(all="true", filters=filters)
        except _FAILURES as error:
            raise _error(error) from None
        return [str(container.id) for container in found]
