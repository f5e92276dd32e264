"""Where the hive is and what opens it, when its user does not say."""

import os
from urllib.parse import urlsplit

from infra.folder import Folder
from infra.tls import TlsError, Trust, asked_for, split_pin
from web.client.errors import HiveError, Unauthorized, Untrusted


def find(url: str, key: str) -> tuple[str, str]:
    """URL and key: as given, from HIVE_URL and HIVE_KEY, or of the hive that runs in the data folder (HIVE_DATA, the
    nearest `.hive`, ~/.hive). Its key goes to no other address. Raises HiveError.
    """
    folder = Folder.find()
    running = folder.running()
    local = running.url.rstrip("/") if running else ""
    url = (url or os.environ.get("HIVE_URL", "") or local).rstrip("/")
    if not url:
        raise HiveError(
            f"no hive runs in {folder.root}, and HIVE_URL is not set",
            remedy="start one with `hivectl up`, or set HIVE_URL and HIVE_KEY",
        )
    key = key or os.environ.get("HIVE_KEY", "").strip()
    if not key and url == local:
        key = folder.admin_key()
    if not key:
        raise Unauthorized(f"no key for {url}", remedy="set HIVE_KEY to its admin key")
    return url, key


def trust_at(url: str, folder: Folder) -> tuple[str, Trust]:
    """`url` without a fingerprint behind it, and whom to trust there: the authority of that fingerprint, what HIVE_CA or
    HIVE_CA_SHA256 say, that of the hive in `folder` where it is this one's address, or those that the system knows.

    Raises Untrusted when what is given is no authority.
    """
    try:
        url, pin = split_pin(url)
        if pin or not url.startswith("https://"):
            return url, Trust(pin=pin)
        ca, pin = asked_for()
        return url, Trust(ca, pin=pin) if ca or pin else _of_folder(url, folder)
    except TlsError as error:
        raise Untrusted(str(error)) from error


def _of_folder(url: str, folder: Folder) -> Trust:
    if not folder.path("tls").is_dir():
        return Trust()
    from infra import certificates  # noqa: PLC0415 - a library that only those need whose hive this is

    served, running, host = certificates.look(folder), folder.running(), urlsplit(url).hostname or ""
    local = running is not None and running.url.rstrip("/") == url
    return served.trust_for(host) if served and (local or served.covers(host)) else Trust()
