"""The certificates of a hive's own servers: made here, renewed here, or an operator's own. A façade over `cryptography`.

All lies under `tls/` in the data folder: `ca.pem` and `ca.key`, the hive's own authority; `server.pem`, what is served:
certificate, what it rests on, and the secret key. That is one file, so that it changes at once: a server that starts or
reads it again just then finds a certificate and its key. An operator's own files are put together in it, too.
"""

import datetime
import hashlib
import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.folder import Folder, write_atomic
from infra.tls import TlsError, Trust, is_loopback

HOUR_S = 3600
DAY_S = 24 * HOUR_S
CA_S = 3650 * DAY_S
SERVER_S = 90 * DAY_S
BACK_S = DAY_S
"""How long before its making a certificate begins, for machines whose clock is late."""
RENEW_PART = 1 / 3
"""Renewed when less than this part of its life is left."""
NAMES_MAX = 100
NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
CA_MODE, SECRET_MODE = 0o644, 0o600


class OwnFiles(msgspec.Struct, frozen=True):
    """An operator's certificate (with what it rests on, if anything), its secret key, and the authority's certificate;
    without the last, clients trust it as their system does.
    """

    cert: Path
    key: Path
    ca: Path | None = None


class Served(msgspec.Struct, frozen=True):
    """What is served. `file`: all of it, for a server to load. `ca`: the authority's certificate (PEM), "" for one that
    every system knows. `names`: hostnames and addresses it is good for. Times in unix s.
    """

    file: Path
    ca: str
    names: tuple[str, ...]
    begins_s: int
    ends_s: int
    own: bool = False
    """Whether it is the operator's."""

    @property
    def fingerprint(self) -> str:
        """Of the authority; "" for one that every system knows."""
        return hashlib.sha256(_one(self.ca.encode()).public_bytes(_DER)).hexdigest() if self.ca else ""

    @property
    def trust(self) -> Trust:
        """Whom clients trust to reach it by one of its names."""
        return Trust(self.ca)

    def trust_for(self, host: str) -> Trust:
        """Whom clients on this machine trust, who reach it at `host`, whatever it is called elsewhere."""
        if self.covers(host) or not self.names:
            return Trust(self.ca)
        return Trust(self.ca, self.names[0].replace("*", "hive"))

    def covers(self, host: str) -> bool:
        """Whether the certificate is good for a server that is reached at `host`."""
        host = host.strip("[]").lower()
        return host in self.names or "*." + host.partition(".")[2] in self.names

    def due(self, now_s: float) -> bool:
        """Whether it is time for another."""
        return self.ends_s - now_s < (self.ends_s - self.begins_s) * RENEW_PART


_DER, _PEM = serialization.Encoding.DER, serialization.Encoding.PEM


# The hive's own


def make(folder: Folder, names: Sequence[str], now_s: float) -> Served:
    """Make the hive's authority, unless it has one, and a server certificate for these names and this machine's local
    ones. Raises TlsError.
    """
    names = tuple(dict.fromkeys([*(_name(name) for name in names), *LOCAL_NAMES]))
    if len(names) > NAMES_MAX:
        raise TlsError(f"{len(names)} names are too many for a certificate; it takes {NAMES_MAX}")
    ca_file, key_file = folder.path("tls", "ca.pem"), folder.path("tls", "ca.key")
    if not ca_file.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        # The key first: should the rest fail, there is no authority yet, and the next try makes both again.
        write_atomic(key_file, _secret(key), SECRET_MODE)
        write_atomic(ca_file, _authority(key, now_s).public_bytes(_PEM), CA_MODE)
    ca, ca_key = _one(_read(ca_file), ca_file), _key(_read(key_file), key_file)
    if not _belong(ca, ca_key):
        raise TlsError(f"{key_file} is not the key of {ca_file}; restore both from one copy")
    if ca.not_valid_after_utc.timestamp() <= now_s:
        raise TlsError(
            f"{ca_file} ended; delete the folder {ca_file.parent} and make another (workers must join again)"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    chain = _server(ca, ca_key, key, names, now_s).public_bytes(_PEM) + ca.public_bytes(_PEM)
    file = folder.path("tls", "server.pem")
    write_atomic(file, chain + _secret(key), SECRET_MODE)
    return _served(file, _chain(chain, file), ca.public_bytes(_PEM).decode(), own=False)


def renew(folder: Folder, now_s: float) -> Served:
    """A new server certificate, with another key, for the same names and by the same authority. Raises TlsError."""
    file = folder.path("tls", "server.pem")
    if not file.exists() or not folder.path("tls", "ca.key").exists():
        raise TlsError(f"there is nothing to renew in {file.parent}; make certificates with `hivectl tls init`")
    return make(folder, _names(_chain(_read(file), file)[0]), now_s)


def exist(folder: Folder) -> bool:
    """Whether the hive has an authority of its own."""
    return folder.path("tls", "ca.pem").exists()


def current(folder: Folder, now_s: float) -> Served:
    """What `make` made, renewed when it is time, or when it is not what lies there. Raises TlsError."""
    found = look(folder)
    if found is None or found.own or found.due(now_s):
        return renew(folder, now_s)
    _check(_read(found.file), found.file, now_s)
    return found


# An operator's own


def adopt(folder: Folder, files: OwnFiles, now_s: float) -> Served:
    """Put an operator's files together for the servers, after looking whether they fit. Raises TlsError."""
    chain = _chain(_read(files.cert), files.cert)
    key = _key(_read(files.key), files.key)
    if not _belong(chain[0], key):
        raise TlsError(f"{files.key} (`tls_key_file`) is not the key of {files.cert} (`tls_cert_file`)")
    _check_dates(chain[0], files.cert, now_s)
    if not _names(chain[0]):
        raise TlsError(f"{files.cert} (`tls_cert_file`) names no host (subjectAltName); clients would not believe it")
    ca = b""
    if files.ca is not None:
        root = _one(_read(files.ca), files.ca)
        _check_dates(root, files.ca, now_s)
        if not any(_issued(certificate, root) for certificate in chain):
            raise TlsError(f"{files.ca} (`tls_ca_file`) is not what {files.cert} (`tls_cert_file`) rests on")
        ca = root.public_bytes(_PEM)
        # Who pins the authority must be shown it.
        chain = [certificate for certificate in chain if certificate != root] + [root]
    data = b"".join(certificate.public_bytes(_PEM) for certificate in chain) + _secret(key)
    target = folder.path("tls", "server.pem")
    if not target.exists() or target.read_bytes() != data:
        write_atomic(target, data, SECRET_MODE)
    return _served(target, chain, ca.decode(), own=True)


def look(folder: Folder) -> Served | None:
    """What a hive in this folder serves or served last, without asking whether it is over; None where there is none.

    Raises TlsError when it is damaged.
    """
    file = folder.path("tls", "server.pem")
    if not file.exists():
        return None
    chain = _chain(_read(file), file)
    root = chain[-1] if chain[-1].issuer == chain[-1].subject else None
    own = root is None or not exist(folder) or root != _one(_read(folder.path("tls", "ca.pem")))
    return _served(file, chain, root.public_bytes(_PEM).decode() if root else "", own)


def _served(file: Path, chain: list[x509.Certificate], ca: str, own: bool) -> Served:
    begins, ends = chain[0].not_valid_before_utc.timestamp(), chain[0].not_valid_after_utc.timestamp()
    names = _names(chain[0])
    return Served(file, ca, names, int(begins), int(ends), own)


# Making


def _authority(key: ec.EllipticCurvePrivateKey, now_s: float) -> x509.Certificate:
    public = key.public_key()
    # A name of its own each time: two authorities of one name confuse those who look for the right one.
    mark = x509.SubjectKeyIdentifier.from_public_key(public).digest.hex()[:8]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Hive authority {mark}")])
    return (
        _begin(name, name, public, now_s - BACK_S, now_s + CA_S)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server(
    ca: x509.Certificate, ca_key: PrivateKeyTypes, key: ec.EllipticCurvePrivateKey, names: Sequence[str], now_s: float
) -> x509.Certificate:
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    public, ends_s = key.public_key(), min(now_s + SERVER_S, ca.not_valid_after_utc.timestamp())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    return (
        _begin(subject, ca.subject, public, now_s - BACK_S, ends_s)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _begin(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, begins_s: float, ends_s: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(begins_s))
        .not_valid_after(_moment(ends_s))
    )


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _moment(at_s: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(at_s), datetime.UTC)


def _name(text: str) -> str:
    """A hostname or an address as certificates name it. Raises TlsError."""
    bare = text.strip().strip("[]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    if len(bare) > 253 or not NAME.fullmatch(bare):
        raise TlsError(
            f"{text[:80]!r} is neither a hostname nor an address; write it like hive.example.org or 10.0.0.5"
        )
    return bare.lower()


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _secret(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


# Reading


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise TlsError(f"{file} cannot be read: {error.strerror}") from None


def _chain(data: bytes, file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise TlsError(f"{file} has no certificate in PEM form (-----BEGIN CERTIFICATE-----)") from None


def _one(data: bytes, file: Path | None = None) -> x509.Certificate:
    return _chain(data, file or Path("ca.pem"))[0]


def _key(data: bytes, file: Path) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(data, None)
    except TypeError:
        raise TlsError(
            f"the key in {file} is encrypted; a hive starts by itself: give it one without a password"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise TlsError(f"{file} has no secret key in PEM form (-----BEGIN PRIVATE KEY-----)") from None


def _check(data: bytes, file: Path, now_s: float) -> None:
    """Whether certificate and key in a file belong together, and may be served now. Raises TlsError."""
    chain = _chain(data, file)
    if not _belong(chain[0], _key(data, file)):
        raise TlsError(f"{file}: the key is not that of the certificate; make another with `hivectl tls renew`")
    _check_dates(chain[0], file, now_s)


def _belong(certificate: x509.Certificate, key: PrivateKeyTypes) -> bool:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return certificate.public_key().public_bytes(_DER, form) == key.public_key().public_bytes(_DER, form)


def _check_dates(certificate: x509.Certificate, file: Path, now_s: float) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if ends.timestamp() <= now_s:
        raise TlsError(f"{file} ended on {ends:%Y-%m-%d %H:%M} UTC; renew it (the hive's own: `hivectl tls renew`)")
    if begins.timestamp() > now_s:
        raise TlsError(f"{file} begins on {begins:%Y-%m-%d %H:%M} UTC only; is this machine's clock right?")


def _issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Hostnames and addresses, those of other machines first."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    names = [name.lower() for name in found.get_values_for_type(x509.DNSName)]
    names += [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return tuple(sorted(names, key=is_loopback))
