"""TLS as those who connect use it: whom they trust, and how a hive's own authority is found by its fingerprint.

A fingerprint is the SHA-256 of an authority's certificate (DER) in hex; its first 32 characters are enough to pin it.
Standard library only, so that `hivectl` starts quickly; certificates are made and read in `infra.certificates`.
"""

import asyncio
import hashlib
import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

PIN_CHARS = 32
PIN = re.compile(r"[0-9a-f]{32,64}")
FETCH_S = 5.0
CHAIN_MAX = 10
"""A server shows so many certificates at most."""
CA_ENV = "HIVE_CA"
PIN_ENV = "HIVE_CA_SHA256"
INSECURE_ENV = "HIVE_INSECURE"
NO_HOST = frozenset({"", "0.0.0.0", "::"})
"""Addresses to listen on everywhere; nobody connects to them."""


class TlsError(Exception):
    """There is no safe connection to be had; the text says why and what to do."""


class Trust(msgspec.Struct, frozen=True):
    """Whom to trust. `ca`: certificates of authorities (PEM), none: the system's. `name`: what the server's certificate
    must be for, if not for the host that is connected to. `pin`: a fingerprint by which `ca` is to be found first.
    """

    ca: str = ""
    name: str = ""
    pin: str = ""

    async def settled(self, url: str) -> "Trust":
        """The same with `ca`, found at `url` when only its fingerprint is known; see `fetch_ca`."""
        return Trust(await fetch_ca(url, self.pin), self.name) if self.pin else self

    def context(self) -> ssl.SSLContext:
        """For connections that trust this one alone. Raises TlsError when `ca` is no certificate."""
        assert not self.pin, "settle it first"
        context = _Context(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.name = self.name
        if not self.ca:
            context.load_default_certs()
            return context
        try:
            context.load_verify_locations(cadata=self.ca)
        except ssl.SSLError:
            raise TlsError("what is to be trusted is no certificate of an authority (PEM)") from None
        return context


class _Context(ssl.SSLContext):
    """Looks for another name than that of the host in the server's certificate."""

    name: str

    def wrap_bio(self, *args: Any, server_hostname: Any = None, **more: Any) -> ssl.SSLObject:
        """As the standard library's."""
        return super().wrap_bio(*args, server_hostname=self.name or server_hostname, **more)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reached_at(host: str) -> str:
    """The address, as in a URL, at which this machine reaches who listens on `host`."""
    here = "::1" if host == "::" else "127.0.0.1" if host in NO_HOST else host
    return f"[{here}]" if ":" in here else here


def check_private(url: str, environ: Mapping[str, str] | None = None) -> None:
    """Raise TlsError for a URL over which anybody between could read what is sent; with an `environ`, unless HIVE_INSECURE
    in it is 1.
    """
    parts = urlsplit(url)
    if environ is not None and environ.get(INSECURE_ENV) == "1":
        return
    if parts.scheme in {"http", "nats", "ws"} and not is_loopback(parts.hostname or ""):
        safe = {"http": "https", "nats": "tls", "ws": "wss"}[parts.scheme]
        raise TlsError(f"{url} is not encrypted, and leaves this machine; use {safe}://")


# Pins


def pin_of(text: str) -> str:
    """A fingerprint, or its beginning, as people write it. Raises TlsError."""
    pin = text.strip().replace(":", "").lower()
    if not PIN.fullmatch(pin):
        raise TlsError(
            f"{text[:80]!r} is not the fingerprint of a certificate; it has {PIN_CHARS} to 64 of 0-9 and a-f "
            "(`hivectl tls show` on the hive's machine prints it)"
        )
    return pin


def split_pin(url: str) -> tuple[str, str]:
    """A URL without its fragment, and the fingerprint that the fragment is; "" without one. Raises TlsError."""
    plain, _, fragment = url.partition("#")
    if fragment and not plain.startswith("https://"):
        raise TlsError(f"{plain} has a fingerprint behind it, and is not https://")
    return plain.rstrip("/"), pin_of(fragment) if fragment else ""


async def fetch_ca(url: str, pin: str) -> str:
    """The certificate (PEM) with fingerprint `pin` among those that the server at `url` shows. Nothing is sent to it.

    Nothing is believed either: whoever trusts the certificate has to connect again. Raises TlsError for a server that
    does not show it, OSError or TimeoutError when none answers.
    """
    parts = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with asyncio.timeout(FETCH_S):
        try:
            _, writer = await asyncio.open_connection(
                parts.hostname, parts.port or 443, ssl=context, server_hostname=parts.hostname
            )
        except ssl.SSLError as error:
            raise TlsError(f"{url} does not speak TLS: {_plain(error)}") from None
        try:
            shown = _shown_by(writer.get_extra_info("ssl_object"))
        finally:
            writer.transport.abort()
    for certificate in shown[:CHAIN_MAX]:
        if hashlib.sha256(certificate).hexdigest().startswith(pin):
            return ssl.DER_cert_to_PEM_cert(certificate)
    raise TlsError(
        f"{url} is not the hive that was meant: none of its certificates has the fingerprint {pin}. Nothing was sent to "
        "it. Somebody may stand between, or the hive was given another authority; ask who runs it"
    )


def _shown_by(connection: Any) -> list[bytes]:
    """The certificates that a server showed (DER)."""
    if hasattr(connection, "get_unverified_chain"):
        return list(connection.get_unverified_chain())
    # Before Python 3.13 the method has no public name.
    return [found.public_bytes(2) for found in connection._sslobj.get_unverified_chain()]  # noqa: SLF001 - see above


# Whom a client trusts


def asked_for(environ: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """The certificates in HIVE_CA (PEM), and the fingerprint in HIVE_CA_SHA256; "" for what is not set.

    Raises TlsError.
    """
    file, pin = environ.get(CA_ENV, ""), environ.get(PIN_ENV, "")
    if file and pin:
        raise TlsError(f"{CA_ENV} and {PIN_ENV} are both set; one says enough")
    return read_ca(Path(file)) if file else "", pin_of(pin) if pin else ""


def read_ca(file: Path) -> str:
    """The certificates in a file. Raises TlsError."""
    try:
        text = file.read_text()
        Trust(text or " ").context()
    except (OSError, UnicodeDecodeError) as error:
        raise TlsError(f"the certificates in {file} cannot be read: {error}") from None
    except TlsError as error:
        raise TlsError(f"{file}: {error}") from None
    return text


def doubt(error: BaseException) -> str:
    """What to tell people about a certificate that is not believed; "" when that is not what is wrong."""
    seen: BaseException | None = error
    while seen is not None:
        # Libraries wrap it in errors of their own, which have its class and not what it says.
        if said := getattr(seen, "verify_message", ""):
            return f"its certificate is not believed: {said}"
        seen = seen.__cause__ or seen.__context__
    return ""


def _plain(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
