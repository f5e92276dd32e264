"""NVML on record: what a machine's library answered, call by call, to be played back where there is no GPU.

A recording is JSON: `frames`, each a map from a call to its answer. A call is the function's own name and its
arguments, such as `nvmlDeviceGetPowerUsage gpu0`; a handle is named by the call that gave it. An answer is `value`, or
`error` with NVML's error code. Each `nvmlDeviceGetCount` begins the next frame; after the last one it stays.
"""

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from infra.nvml import Library, library

FORMAT = 1
FRAMES_MAX = 1000
_BEGINS = "nvmlDeviceGetCount"
_HANDLES = {"nvmlDeviceGetHandleByIndex": "gpu", "nvmlDeviceGetMigDeviceHandleByIndex": "mig"}


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one call answered."""

    value: Any = None
    error: int = 0


class Recording(msgspec.Struct):
    """Frames in the order in which they were taken; `constants` are numbers that the library gives names to."""

    frames: list[dict[str, Answer]]
    constants: dict[str, int] = {}
    format: int = FORMAT


_decode = msgspec.json.Decoder(Recording).decode


def _label(name: str, args: tuple[Any, ...]) -> str:
    """What the handle that this call gives is called: `gpu0`, `gpu0-mig1`."""
    above = f"{args[0]}-" if isinstance(args[0], str) else ""
    return f"{above}{_HANDLES[name]}{args[-1]}"


class Recorder:
    """A library that writes down what the one beneath answers."""

    def __init__(self, library: Library) -> None:
        self._lib = library
        self._real: dict[str, Any] = {}
        self.NVMLError: Any = library.NVMLError
        self.recording = Recording([{}])

    def __getattr__(self, name: str) -> Any:
        found: Any = getattr(self._lib, name)
        if not callable(found):
            self.recording.constants[name] = int(cast(int, found))
            return found

        def call(*args: Any) -> Any:
            if name == _BEGINS and _BEGINS in self.recording.frames[-1]:
                if len(self.recording.frames) >= FRAMES_MAX:
                    raise ValueError(f"a recording holds at most {FRAMES_MAX} frames")
                self.recording.frames.append({})
            said = " ".join([name, *map(str, args)])
            real = [self._real.get(arg, arg) if isinstance(arg, str) else arg for arg in args]
            try:
                value = cast(Any, found)(*real)
            except self.NVMLError as error:
                self.recording.frames[-1][said] = Answer(error=int(error.value))
                raise
            if name in _HANDLES:
                label = _label(name, args)
                self._real[label], value = value, label
            self.recording.frames[-1][said] = Answer(_plain(value))
            return value

        return call

    def save(self, file: Path) -> None:
        """Write what was recorded so far."""
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self.recording), indent=1) + b"\n")


def _plain(value: Any) -> Any:
    """An answer as JSON: structures by their fields."""
    if isinstance(value, list):
        return [_plain(one) for one in cast(list[Any], value)]
    if isinstance(value, ctypes.Structure):
        return {field[0]: _plain(getattr(value, field[0])) for field in cast(Any, value)._fields_}
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if value is None or isinstance(value, int | float | str):
        return value
    fields: dict[str, Any] = dict(value.__dict__)  # pynvml's own copy of a structure
    return {name: _plain(inner) for name, inner in fields.items()}


class Recorded:
    """A recording as a library. What was not recorded is "not supported"."""

    def __init__(self, recording: Recording) -> None:
        self._recording, self._at = recording, -1
        self._library = library()
        self.NVMLError: Any = self._library.NVMLError

    @classmethod
    def load(cls, file: Path) -> "Recorded":
        """Raises OSError, and ValueError when it is no recording of this format."""
        recording = _decode(file.read_bytes())
        if recording.format != FORMAT or not recording.frames:
            raise ValueError(f"{file} is not a recording of format {FORMAT}; record it again")
        return cls(recording)

    def __getattr__(self, name: str) -> Any:
        if name in self._recording.constants:
            return self._recording.constants[name]
        if not name.startswith("nvml"):
            return getattr(self._library, name)

        def call(*args: Any) -> Any:
            frames = self._recording.frames
            if name == _BEGINS:
                self._at = min(self._at + 1, len(frames) - 1)
            said = " ".join([name, *map(str, args)])
            answer = frames[max(self._at, 0)].get(said)
            if answer is None:
                raise self.NVMLError(self._library.NVML_ERROR_NOT_SUPPORTED)
            if answer.error:
                raise self.NVMLError(answer.error)
            return _shaped(answer.value)

        return call


def _shaped(value: Any) -> Any:
    """JSON as the library would have it: fields by name."""
    if isinstance(value, dict):
        return SimpleNamespace(**{name: _shaped(inner) for name, inner in cast(dict[str, Any], value).items()})
    return [_shaped(one) for one in cast(list[Any], value)] if isinstance(value, list) else value
