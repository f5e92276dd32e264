"""What lies in a task's folder when it starts, as typed: files, folders, archives, parameters; and what is kept of it.

Everything is checked here, for whoever typed it and for whoever fetches it.
"""

import posixpath
import re
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from events.base import Digest

PATH_CHARS_MAX = 512
URL_CHARS_MAX = 2048
INLINE_BYTES_MAX = 1024 * 1024
"""Of the bytes that one input has in the request itself."""
FILES_MAX = 100_000
"""Of one folder."""
LIST_BYTES_MAX = 64 * 1024 * 1024
"""Of the list of a folder's files."""
PARAMS_MAX = 256
PARAM_CHARS_MAX = 8192
WHOLE_MAX = 2**63
OURS = ".hive-"
"""What we put into a task's folder begins so."""
DIGEST = re.compile(r"[0-9a-f]{64}\Z")
PARAM_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
PATTERN = re.compile(r"[*?\[]")

Form: TypeAlias = Literal["file", "folder", "archive"]
Param: TypeAlias = bool | int | float | str


class BadSpec(Exception):
    """A submission that cannot be. `field` is a path such as `jobs[2].memory`; `detail` names limit and remedy."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field, self.detail = field, detail


class Input(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """Something for the task's folder, at `path`: the blob `digest`, which a worker fetches from `url` when that is
    given; every result of `job`, below `path`; or `data` (base64 in JSON), for a small file.

    `form` says what the blob is: a file, a list of a folder's files (see `File`), or an archive (zip, tar and what
    compresses it) that is unpacked below `path`.
    """

    path: str
    digest: Digest = ""
    job: str = ""
    form: Form = "file"
    url: str = ""
    data: bytes | None = None


class File(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """A file of a folder. A folder is a blob, the JSON list of its files by path, so that each file is kept once
    whatever folders it is in. Without a digest: a folder with nothing in it.
    """

    path: str
    digest: Digest = ""
    size: int = 0


_files_of = msgspec.json.Decoder(list[File]).decode
_encode = msgspec.json.Encoder().encode


def list_bytes(files: list[File]) -> bytes:
    """The blob of a folder: always the same for the same files."""
    return _encode(sorted(files, key=lambda file: file.path))


def files_of(data: bytes) -> list[File]:
    """The files of a folder's blob, checked. Raises BadSpec, whose field is a place in the list."""
    if len(data) > LIST_BYTES_MAX:
        raise BadSpec("", f"the list of files has {len(data)} bytes; the limit is {LIST_BYTES_MAX}")
    try:
        files = _files_of(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadSpec("", f"is no list of a folder's files: {error}") from None
    if len(files) > FILES_MAX:
        raise BadSpec("", f"has {len(files)} files; the limit is {FILES_MAX}: pack them into an archive")
    taken: set[str] = set()
    above: set[str] = set()
    for at, file in enumerate(files):
        check_path(f"[{at}].path", file.path)
        if file.digest and not DIGEST.match(file.digest):
            raise BadSpec(f"[{at}].digest", "must be a SHA-256 as 64 lower-case hexadecimal digits")
        if file.path in taken:
            raise BadSpec(f"[{at}].path", f"{file.path!r} is named twice")
        taken.add(file.path)
        here = file.path
        while (here := here.rpartition("/")[0]) and here not in above:
            above.add(here)
    if both := next((file.path for file in files if file.digest and file.path in above), ""):
        raise BadSpec("", f"{both!r} is a file and a folder at once")
    return files


def check_path(field: str, path: str) -> None:
    """Raise BadSpec unless `path` names a place inside the task's folder that is not ours."""
    if not path or len(path) > PATH_CHARS_MAX:
        raise BadSpec(field, f"must be 1 to {PATH_CHARS_MAX} characters")
    bad = path.startswith("/") or "\\" in path or not path.isprintable()
    if bad or posixpath.normpath(path) != path or path.split("/", maxsplit=1)[0] in ("..", "."):
        raise BadSpec(field, f"{path!r} must be a plain relative path inside the task's folder, without '..' or '\\'")
    if path.startswith(OURS):
        raise BadSpec(field, f"{path!r} must not begin with {OURS!r}; such names are Hive's own")


def check_result(field: str, path: str) -> None:
    """Raise BadSpec unless `path` is a file, a folder (`out/`; `./` is the whole one), or a pattern (`logs/**/*.txt`)."""
    if path == "./":
        return
    check_path(field, path.removesuffix("/") if path != "/" else path)
    if path.endswith("/") and PATTERN.search(path):
        raise BadSpec(field, f"{path!r} is a pattern of folders; name files, such as {path + '**'!r}")
    if any("**" in part and part != "**" for part in path.split("/")):
        raise BadSpec(field, f"{path!r}: `**` stands for whole folders, such as `logs/**/*.txt`")


def is_list(path: str) -> bool:
    """Whether the declared result `path` may be several files: a folder or a pattern."""
    return path.endswith("/") or PATTERN.search(path) is not None


def check_inputs(field: str, inputs: list[Input], most: int) -> None:
    """Raise BadSpec when `inputs` are more than `most`, or when one of them cannot be."""
    if len(inputs) > most:
        raise BadSpec(field, f"has {len(inputs)} entries; the limit is {most}: name a folder, or an archive")
    seen: set[str] = set()
    for at, file in enumerate(inputs):
        here = f"{field}[{at}]"
        if not (file.path == "." and (file.form != "file" or file.job)):
            check_path(f"{here}.path", file.path)
        if file.path in seen:
            raise BadSpec(f"{here}.path", f"{file.path!r} is named twice; each input needs a path of its own")
        seen.add(file.path)
        _check_source(here, file)


def _check_source(here: str, file: Input) -> None:
    if bool(file.digest) + bool(file.job) + (file.data is not None) != 1:
        raise BadSpec(here, "needs exactly one of digest (a blob), job (whose results to take) and data (base64)")
    if file.digest and not DIGEST.match(file.digest):
        raise BadSpec(f"{here}.digest", "must be the SHA-256 of the blob as 64 lower-case hexadecimal digits")
    if file.data is not None and len(file.data) > INLINE_BYTES_MAX:
        raise BadSpec(f"{here}.data", f"has {len(file.data)} bytes; the limit is {INLINE_BYTES_MAX}: upload it")
    if file.form != "file" and file.job:
        raise BadSpec(f"{here}.form", "goes with a digest or data; results of a job are files as they are")
    if file.url:
        if not file.digest or file.form == "folder":
            raise BadSpec(f"{here}.url", "needs the digest of what is there, a file or an archive")
        if why := why_no_url(file.url):
            raise BadSpec(f"{here}.url", why)


def why_no_url(url: str) -> str:
    """Why nothing is fetched from `url`; "" when it may be tried."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no URL"
    if len(url) > URL_CHARS_MAX or not url.isascii() or not url.isprintable() or " " in url:
        return f"must be at most {URL_CHARS_MAX} printable ASCII characters; quote others as %XX"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "must begin with http:// or https://, and name a host"
    if parts.username is not None or parts.password is not None:
        return "must hold no name or password; whoever reads the job would see them"
    return ""


def check_params(field: str, params: dict[str, Param]) -> None:
    """Raise BadSpec when one of the parameters cannot be."""
    if len(params) > PARAMS_MAX:
        raise BadSpec(field, f"has {len(params)} entries; the limit is {PARAMS_MAX}: put them into a file")
    for name, value in params.items():
        if not PARAM_NAME.match(name):
            raise BadSpec(field, f"{name[:80]!r}: names are 1 to 64 of letters, digits and _, and begin with no digit")
        if isinstance(value, str) and (len(value) > PARAM_CHARS_MAX or "\0" in value):
            raise BadSpec(f"{field}.{name}", f"must be at most {PARAM_CHARS_MAX} characters, none of them NUL")
        if isinstance(value, int) and not -WHOLE_MAX <= value < WHOLE_MAX:
            raise BadSpec(f"{field}.{name}", "is too large for a whole number of 64 bits; pass it as text")


def param_text(value: Param) -> str:
    """A parameter as a task finds it in its environment."""
    if isinstance(value, str):
        return value
    said: Any = _encode(value)
    return said.decode()
