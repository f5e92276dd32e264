"""The version of this Hive, as installed."""

from importlib.metadata import PackageNotFoundError, version


def _version() -> str:
    try:
        return version("hive")
    except PackageNotFoundError:
        return "0.0.0+source"


VERSION = _version()
