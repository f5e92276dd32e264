"""What to tell people about errors of the parts below hivectl."""

from services.cli.failure import Exit, Failure


def explain_known(error: Exception) -> Failure | None:
    """The failure that `error` means, None when it is not one that users are expected to meet."""
    from infra.connect import NoServer
    from infra.settings import SettingsError

    if isinstance(error, (NoServer, SettingsError)):
        return Failure(str(error), code=Exit.UNAVAILABLE)
    if isinstance(error, PermissionError):
        return Failure(f"not allowed: {error}", "run it as the user who owns the file, or choose another path")
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(f"{error.strerror}: {error.filename}", "check the path", Exit.USAGE)
    return None
