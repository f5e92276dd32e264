"""What to tell people about errors of the parts below hivectl."""

from http import HTTPStatus
from typing import cast

from services.cli.failure import Exit, Failure


def explain_known(error: Exception) -> Failure | None:
    """The failure that `error` means, None when it is not one that users are expected to meet."""
    from infra.connect import NoServer
    from infra.link import LinkDown
    from infra.settings import SettingsError
    from infra.tls import TlsError
    from web.client.errors import HiveError

    if isinstance(error, ExceptionGroup):
        # Of several things that went wrong at once, the first: the others are mostly the same.
        group = cast("ExceptionGroup[Exception]", error)
        return explain_known(group.exceptions[0])
    if isinstance(error, Failure):
        return error
    if isinstance(error, HiveError):
        return _of_hive(error)
    if isinstance(error, SettingsError):
        return Failure(str(error), "correct it there", Exit.USAGE)
    if isinstance(error, TlsError):
        return Failure(str(error))
    if isinstance(error, (NoServer, LinkDown)):
        return Failure(str(error), code=Exit.UNAVAILABLE)
    if isinstance(error, PermissionError):
        return Failure(f"not allowed: {error}", "run it as the user who owns the file, or choose another path")
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(f"{error.strerror}: {error.filename}", "check the path", Exit.USAGE)
    return None


_LISTS = {
    "job": "`hivectl jobs` lists them",
    "worker": "`hivectl workers` lists them",
    "blob": "`hivectl blob put FILE` stores one",
}


def _of_hive(error: Exception) -> Failure:
    from web.client.errors import Broken, HiveError, JobFailed, NotFound, Unauthorized, Unavailable, Untrusted

    assert isinstance(error, HiveError)
    codes: tuple[tuple[type[HiveError], Exit], ...] = (
        (Unauthorized, Exit.UNAUTHORIZED),
        (Unavailable, Exit.UNAVAILABLE),
        (Untrusted, Exit.UNAVAILABLE),
        (Broken, Exit.UNAVAILABLE),
        (NotFound, Exit.REFUSED),
        (JobFailed, Exit.JOB_FAILED),
    )
    code = next((code for kind, code in codes if isinstance(error, kind)), Exit.REFUSED)
    what = error.detail if not error.field or error.field in error.detail else f"{error.field}: {error.detail}"
    remedy = error.remedy
    if code == Exit.UNAUTHORIZED and error.status != HTTPStatus.FORBIDDEN:
        remedy = "log in with `hivectl login`, or set HIVE_KEY to an API key; on the hive's machine, HIVE_DATA to its data folder"
    if isinstance(error, NotFound):
        # The API names its own paths; here it is commands that help.
        remedy = next((way for thing, way in _LISTS.items() if f"no {thing} " in error.detail), remedy)
    return Failure(what, remedy, code)
