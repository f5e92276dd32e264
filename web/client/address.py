"""Where the hive is and what opens it, when its user does not say."""

import os

from infra.folder import Folder
from web.client.errors import HiveError, Unauthorized


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
