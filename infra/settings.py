"""What an operator may set: `hive.toml` in the data folder, HIVE_* in the environment over it, flags over both.

The Struct is the declaration: names, types, defaults and units. Each setting `name` is `HIVE_NAME` in the environment.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

import msgspec

from infra.disk import STOP_BYTES, WARN_BYTES
from infra.tls import TlsError, check_private

SETTINGS_FILE = "hive.toml"
POOL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
PORT_MAX = 65535
REPLICAS = (1, 3, 5)
REPORT_ARCHIVE_BYTES_MIN = 64 * 1024**2
NOT_NEGATIVE = (
    "disk_low_bytes", "disk_min_bytes", "requests_per_min_max", "open_jobs_max", "queued_tasks_max", "upload_bytes_max",
    "keep_days",
    "report_archive_bytes_max",
)  # fmt: skip
CAPPED = {
    "supply_cap_cpt": 1_000_000_000, "sign_up_grant_cpt": 1_000_000_000, "admin_grant_cpt": 1_000_000_000,
    "fee_percent": 100, "funds_grace_s": 7 * 86_400,
}  # fmt: skip
"""A thousand million CPT, in millionths, are still exact as a JSON number everywhere."""
ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
NATS_URL = re.compile(r"(tls|wss)://[^\s,/]+(/[^\s,]*)?")
TYPO_LIKENESS = 0.8
CLIENT_NAMES = frozenset({"HIVE_URL", "HIVE_KEY", "HIVE_DATA", "HIVE_CA", "HIVE_CA_SHA256", "HIVE_INSECURE"})
"""Names of the environment that are the command line's, not settings."""


class SettingsError(Exception):
    """A setting is wrong; the text names it, where it stands, and what would be right."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. Sizes in bytes; an empty text means "embedded" or "none"."""

    pool: str = "default"
    """The pool this control plane runs."""
    host: str = "127.0.0.1"
    """Address on which the HTTP API listens."""
    port: int = 8420
    """Port of the HTTP API; 0 takes a free one, that of last time if it is free."""
    nats_port: int = 0
    """Port of the embedded nats-server; 0 takes a free one at the first start and keeps it."""
    nats_url: str = ""
    """An external NATS; with it come files with the seed of a user in PLATFORM and of one in SYS, or their .creds files."""
    nats_seed_file: str = ""
    nats_sys_seed_file: str = ""
    nats_replicas: int = 1
    """Copies of each message on an external cluster: 1, 3 or 5."""
    postgres_dsn: str = ""
    """An external Postgres; empty: the embedded one."""
    unsafe_durability: bool = False
    """Accept a NATS that acknowledges before its disk has the data: a power cut then loses acknowledged work."""
    disk_low_bytes: int = WARN_BYTES
    """Free disk below which a warning is given; `disk_min_bytes` when that is more."""
    disk_min_bytes: int = STOP_BYTES
    """Free disk below which new submissions are refused, while what runs is still recorded."""
    report_archive_bytes_max: int = 10 * 1024**3
    """What workers' signed reports may take of the disk (about 200 bytes each, and the oldest go first); 0: none are kept,
    else 64 MiB or more.
    """
    requests_per_min_max: int = 0
    """How often each user may ask the API, unless it has a limit of its own (`hivectl user limits`); 0: any number. Admins
    have none of these limits.
    """
    open_jobs_max: int = 0
    """How many open jobs each user may have in the pool."""
    queued_tasks_max: int = 0
    """How many tasks of each user may wait for a worker."""
    upload_bytes_max: int = 0
    """The largest blob that each user may upload."""
    supply_cap_cpt: int = 1_000_000_000
    """How many CPT there may be at most."""
    sign_up_grant_cpt: int = 100
    """CPT that each new user is given, while the supply lasts."""
    admin_grant_cpt: int = 1_000_000
    """CPT that each new admin is given in place of that, when it is more: who tries a hive alone has something to spend."""
    economy: Literal["on", "off"] = "on"
    """Whether jobs cost anything: where it is off nothing is held or paid, and usage is still recorded."""
    fee_percent: int = 10
    """The hive's own share of what jobs pay."""
    funds_grace_s: int = 60
    """How long before it is stopped a running job whose owner has no more CPT is told so, at least."""
    keep_days: int = 0
    """For how many days after a job's end its files and output are kept, and uploads that no job needs; 0: for ever."""
    registration: Literal["open", "invite", "closed"] = "invite"
    """Who may register: anybody, whoever has an invitation, or nobody."""
    smtp_url: str = ""
    """Where mail is handed in, such as smtp://name:password@mail.example.org:587 (smtps:// for TLS from the start)."""
    mail_from: str = ""
    """The address that the hive's mail comes from; needed with `smtp_url`."""
    human_check_url: str = ""
    """Where answers to a check for humans are verified (Turnstile and what is like it); empty: nobody is asked for one."""
    human_check_secret_file: str = ""
    """The file with the secret that the service of `human_check_url` gave you."""
    human_check_site_key: str = ""
    """The key with which pages show the check; everybody may know it."""
    human_check_required: bool = True
    """Whether nobody registers while the service is away; else nobody is asked meanwhile."""
    public_url: str = ""
    """How people and machines reach the API, as mail and enrolment tokens tell them."""
    tls_cert_file: str = ""
    """A certificate of your own with what it rests on (PEM), in place of the one that `hivectl tls init` makes."""
    tls_key_file: str = ""
    """Its secret key (PEM, without a password)."""
    tls_ca_file: str = ""
    """The certificate of its authority, when that is one that systems do not know."""
    behind_proxy: bool = False
    """A reverse proxy ends TLS: the HTTP API listens without, also where it is not loopback."""
    trusted_proxies: list[str] = []
    """Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto count."""
    cors_origins: list[str] = []
    """Other sites that may use the API from a browser, such as https://pages.example.org."""
    nats_host: str = "127.0.0.1"
    """Address on which the embedded nats-server listens; not loopback: with TLS, for workers on other machines."""
    nats_websocket_port: int = 0
    """Port on which it also takes WebSocket; 0: none. On loopback without TLS, for a reverse proxy."""
    nats_public_url: str = ""
    """Where workers on other machines reach NATS, such as wss://hive.example.org/nats; several, comma between, are tried
    in turn. Empty: at the API's host.
    """
    nats_ca_file: str = ""
    """The certificate of an external NATS' authority (PEM), when that is one that systems do not know."""

    def __post_init__(self) -> None:
        """Check what types cannot say. msgspec turns the ValueErrors into its own."""
        if not POOL_NAME.fullmatch(self.pool):
            raise ValueError(
                f"`pool` is {self.pool!r}; use 1 to 32 of a-z, 0-9, _ and -, starting with a letter or digit"
            )
        for name in ("port", "nats_port", "nats_websocket_port"):
            if not 0 <= getattr(self, name) <= PORT_MAX:
                raise ValueError(f"`{name}` is {getattr(self, name)}; use 0 to {PORT_MAX}")
        if self.nats_replicas not in REPLICAS:
            raise ValueError(f"`nats_replicas` is {self.nats_replicas}; use 1, 3 or 5")
        if self.nats_replicas > 1 and not self.nats_url:
            raise ValueError("`nats_replicas` above 1 needs an external cluster; set `nats_url`")
        if self.nats_url and not (self.nats_seed_file and self.nats_sys_seed_file):
            raise ValueError(
                "`nats_url` needs `nats_seed_file` (a PLATFORM user) and `nats_sys_seed_file` (a SYS user)"
            )
        if self.smtp_url and not (self.smtp_url.startswith(("smtp://", "smtps://")) and "@" in self.mail_from):
            raise ValueError("`smtp_url` begins with smtp:// or smtps://, and needs `mail_from`, an e-mail address")
        for name in NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; use 0 or more")
        if 0 < self.report_archive_bytes_max < REPORT_ARCHIVE_BYTES_MIN:
            raise ValueError(
                f"`report_archive_bytes_max` is {self.report_archive_bytes_max}; use {REPORT_ARCHIVE_BYTES_MIN} or more, or 0"
            )
        for name, most in CAPPED.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"`{name}` is {getattr(self, name)}; use 0 to {most}")
        self._check_human_check()
        self._check_network()

    def _check_human_check(self) -> None:
        url, parts = self.human_check_url, (self.human_check_secret_file, self.human_check_site_key)
        if any((url, *parts)) and not all((url, *parts)):
            raise ValueError(
                "`human_check_url`, `human_check_secret_file` and `human_check_site_key` belong together; set all or none"
            )
        try:
            if url:
                check_private(url)
        except TlsError as error:
            raise ValueError(f"`human_check_url`: {error}") from None
        if url and not url.startswith(("https://", "http://")):
            raise ValueError(f"`human_check_url` is {url!r}; use the service's https:// address")

    def _check_network(self) -> None:
        if bool(self.tls_cert_file) != bool(self.tls_key_file) or (self.tls_ca_file and not self.tls_cert_file):
            raise ValueError("`tls_cert_file` and `tls_key_file` belong together, and `tls_ca_file` goes with them")
        for address in self.trusted_proxies:
            try:
                ip_network(address)
            except ValueError:
                raise ValueError(
                    f"`trusted_proxies` has {address!r}; use addresses or networks such as 10.0.0.0/8"
                ) from None
        for origin in self.cors_origins:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(f"`cors_origins` has {origin!r}; use origins such as https://pages.example.org")
        for url in filter(None, self.nats_public_url.split(",")):
            if not NATS_URL.fullmatch(url.strip()):
                raise ValueError(f"`nats_public_url` has {url!r}; use tls://HOST:PORT or wss://HOST[:PORT][/PATH]")


NAMES: tuple[str, ...] = Settings.__struct_fields__
LISTS = frozenset({"trusted_proxies", "cors_origins"})


def load(root: Path, environ: Mapping[str, str] = os.environ, **flags: Any) -> Settings:
    """The settings of the data folder `root`; flags that are None were not given. Raises SettingsError."""
    file = root / SETTINGS_FILE
    values = _from_file(file) | _from_environment(environ)
    values |= {name: value for name, value in flags.items() if value is not None}
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        said, at, name = str(error).rpartition(" - at `$.")
        what = f"`{name}: {said}" if at else str(error)
        raise SettingsError(f"{what} (from {file}, HIVE_* in the environment, or a flag)") from None


def _from_file(file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}") from None
    if unknown := sorted(set(values) - set(NAMES)):
        raise SettingsError(f"{file}: unknown setting {', '.join(unknown)}; the settings are {', '.join(NAMES)}")
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    known = {f"HIVE_{name.upper()}": name for name in NAMES}
    for name in environ:
        if not name.startswith("HIVE_") or name in known or name in CLIENT_NAMES:
            continue
        # Other HIVE_ names belong to the command line and to tasks; one that is nearly a setting is a slip.
        if near := difflib.get_close_matches(name, known, 1, TYPO_LIKENESS):
            raise SettingsError(f"{name} in the environment is not a setting; did you mean {near[0]}?")
    given = {setting: environ[name] for name, setting in known.items() if name in environ}
    return given | {name: _several(given[name]) for name in LISTS & given.keys()}


def _several(text: str) -> list[str]:
    """What stands between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
