"""Certificates in a data folder: made, renewed, an operator's own; and every mistake in them is named."""

import shutil
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from infra import certificates
from infra.certificates import CA_S, DAY_S, SERVER_S, OwnFiles, Served
from infra.folder import Folder
from infra.settings import Settings
from infra.tls import INSECURE_ENV, TlsError, Trust, check_private, pin_of, split_pin
from services.certificates import api_host, check_listeners, served_by, worker_host
from tests.tls_support import made, split
from web.client import AsyncHive, Untrusted

NOW_S = 1_800_000_000.0


def make(root: Path, *names: str) -> Served:
    return certificates.make(Folder(root), names, NOW_S)


def test_what_is_made_has_the_names_asked_for_and_those_of_this_machine(tmp_path: Path) -> None:
    served = make(tmp_path, "Hive.Example.org", "10.0.0.5", "[fd00::1]")
    assert set(served.names) == {"hive.example.org", "10.0.0.5", "fd00::1", "localhost", "127.0.0.1", "::1"}
    assert served.names[0] == "hive.example.org"
    assert served.covers("HIVE.example.org")
    assert not served.covers("other.example.org")
    assert served.ends_s == NOW_S + SERVER_S


def test_secret_keys_are_their_owners_alone(tmp_path: Path) -> None:
    make(tmp_path)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "tls").iterdir()}
    assert modes == {"ca.pem": 0o644, "ca.key": 0o600, "server.pem": 0o600}
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700


def test_the_fingerprint_is_that_of_the_authority(tmp_path: Path) -> None:
    served = make(tmp_path)
    root = x509.load_pem_x509_certificate((tmp_path / "tls" / "ca.pem").read_bytes())
    assert served.fingerprint == root.fingerprint(hashes.SHA256()).hex()
    assert root.not_valid_after_utc.timestamp() == NOW_S + CA_S
    assert isinstance(key := root.public_key(), ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_renewed_it_is_another_certificate_for_the_same_names_by_the_same_authority(tmp_path: Path) -> None:
    first = make(tmp_path, "hive.example.org")
    before = first.file.read_bytes()
    again = certificates.renew(Folder(tmp_path), NOW_S + DAY_S)
    assert (again.fingerprint, set(again.names)) == (first.fingerprint, set(first.names))
    assert again.ends_s == first.ends_s + DAY_S
    assert again.file.read_bytes() != before


@pytest.mark.parametrize(("days", "due"), [(59, False), (61, True), (91, True)])
def test_it_is_renewed_when_less_than_a_third_of_its_life_is_left(tmp_path: Path, days: int, due: bool) -> None:
    first = make(tmp_path)
    now_s = NOW_S + days * DAY_S
    assert first.due(now_s) is due
    assert (certificates.current(Folder(tmp_path), now_s).ends_s > first.ends_s) is due


def test_it_does_not_outlive_its_authority(tmp_path: Path) -> None:
    make(tmp_path)
    last = certificates.renew(Folder(tmp_path), NOW_S + CA_S - DAY_S)
    assert last.ends_s == NOW_S + CA_S
    with pytest.raises(TlsError, match="ended; delete the folder"):
        certificates.renew(Folder(tmp_path), NOW_S + CA_S + 1)


@pytest.mark.parametrize("name", ["", "a b", "-x", "x-", "a..b", "https://x", "x" * 64, "a," + "b", "*.x"])
def test_what_is_no_name_is_refused_and_nothing_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(TlsError, match="neither a hostname nor an address"):
        make(tmp_path, name)
    assert not (tmp_path / "tls").exists()


def test_another_hives_key_beside_an_authority_is_named(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b")
    shutil.copy(tmp_path / "b" / "tls" / "ca.key", tmp_path / "a" / "tls" / "ca.key")
    with pytest.raises(TlsError, match=r"ca\.key is not the key of .*ca\.pem"):
        certificates.renew(Folder(tmp_path / "a"), NOW_S)


def test_a_damaged_certificate_is_named(tmp_path: Path) -> None:
    make(tmp_path).file.write_text("damaged")
    with pytest.raises(TlsError, match=r"server\.pem has no certificate"):
        certificates.current(Folder(tmp_path), NOW_S)


# An operator's own


def own(root: Path) -> tuple[Served, OwnFiles]:
    """A certificate as an operator has it, and what it was split from."""
    served = make(root / "theirs", "hive.example.org")
    cert, key = split(served, root / "own")
    return served, OwnFiles(cert, key, root / "theirs" / "tls" / "ca.pem")


def test_an_operators_own_is_served_with_its_authority_behind_it(tmp_path: Path) -> None:
    theirs, files = own(tmp_path)
    served = certificates.adopt(Folder(tmp_path), files, NOW_S)
    assert (served.fingerprint, served.own) == (theirs.fingerprint, True)
    assert served.file.stat().st_mode & 0o777 == 0o600
    assert len(x509.load_pem_x509_certificates(served.file.read_bytes())) == 2
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(served.file)
    assert (look := certificates.look(Folder(tmp_path))) is not None
    assert look.own


def test_one_by_an_authority_that_systems_know_has_no_fingerprint(tmp_path: Path) -> None:
    _, files = own(tmp_path)
    served = certificates.adopt(Folder(tmp_path), OwnFiles(files.cert, files.key), NOW_S)
    assert (served.fingerprint, served.trust) == ("", Trust())
    assert served.trust_for("127.0.0.1") == Trust()
    assert served.trust_for("10.9.9.9") == Trust(name="hive.example.org")


def unreadable(files: OwnFiles) -> None:
    files.cert.unlink()


def no_pem(files: OwnFiles) -> None:
    files.key.write_text("not a key")


def another_key(files: OwnFiles) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    files.key.write_bytes(_pem(key, serialization.NoEncryption()))


def with_password(files: OwnFiles) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    files.key.write_bytes(_pem(key, serialization.BestAvailableEncryption(b"secret")))


def another_authority(files: OwnFiles) -> None:
    other = make(files.cert.parent / "other")
    assert files.ca is not None
    files.ca.write_text(other.ca)


def _pem(key: ec.EllipticCurvePrivateKey, how: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (unreadable, r"cert\.pem cannot be read: No such file"),
        (no_pem, r"key\.pem has no secret key in PEM form"),
        (another_key, r"key\.pem \(`tls_key_file`\) is not the key of .*cert\.pem \(`tls_cert_file`\)"),
        (with_password, r"key in .*key\.pem is encrypted"),
        (another_authority, r"ca\.pem \(`tls_ca_file`\) is not what .*cert\.pem \(`tls_cert_file`\) rests on"),
    ],
)
def test_a_mistake_in_an_operators_files_is_named(tmp_path: Path, spoil: Callable[[OwnFiles], None], said: str) -> None:
    _, files = own(tmp_path)
    spoil(files)
    with pytest.raises(TlsError, match=said):
        certificates.adopt(Folder(tmp_path), files, NOW_S)
    assert not (tmp_path / "tls").exists()


@pytest.mark.parametrize(("days", "said"), [(91, "ended on"), (-2, "begins on .* is this machine's clock right")])
def test_one_that_is_not_good_today_is_refused(tmp_path: Path, days: int, said: str) -> None:
    _, files = own(tmp_path)
    with pytest.raises(TlsError, match=said):
        certificates.adopt(Folder(tmp_path), files, NOW_S + days * DAY_S)


# Which are served, and where that allows to listen


def test_settings_win_over_what_the_hive_made_and_that_comes_back_without_them(tmp_path: Path) -> None:
    mine = made(tmp_path)
    theirs = made(tmp_path / "theirs")
    cert, key = split(theirs, tmp_path / "own")
    settings = Settings(
        tls_cert_file=str(cert), tls_key_file=str(key), tls_ca_file=str(theirs.file.with_name("ca.pem"))
    )
    assert (found := served_by(Folder(tmp_path), settings)) is not None
    assert found.fingerprint == theirs.fingerprint
    assert (back := served_by(Folder(tmp_path), Settings())) is not None
    assert (back.fingerprint, back.own) == (mine.fingerprint, False)
    assert served_by(Folder(tmp_path / "none"), Settings()) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(host="0.0.0.0"), "`host` is 0.0.0.0: the HTTP API would listen without TLS"),
        (Settings(host="hive.example.org"), "`host` is hive.example.org"),
        (Settings(nats_host="::"), "`nats_host` is ::: NATS would listen without TLS"),
        (Settings(nats_host="10.0.0.5", behind_proxy=True), "`nats_host` is 10.0.0.5"),
    ],
)
def test_nothing_leaves_the_machine_without_tls(settings: Settings, said: str) -> None:
    with pytest.raises(TlsError, match=said):
        check_listeners(settings, None)


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(host="localhost"), Settings(host="0.0.0.0", behind_proxy=True)]
)
def test_on_this_machine_and_behind_a_proxy_it_may_listen_without(settings: Settings) -> None:
    check_listeners(settings, None)


def test_workers_are_told_a_host_that_the_certificate_is_for(tmp_path: Path) -> None:
    served = make(tmp_path, "hive.example.org", "10.0.0.5")
    everywhere = Settings(host="0.0.0.0", nats_host="0.0.0.0")
    check_listeners(everywhere, served)
    assert worker_host(everywhere, served) == "hive.example.org"
    assert worker_host(Settings(nats_host="10.0.0.5"), served) == "10.0.0.5"
    assert worker_host(Settings(nats_host="10.0.0.5", public_url="https://h.example.org:1"), served) == "h.example.org"
    with pytest.raises(TlsError, match=r"NATS at 10\.0\.0\.6, and the certificate is for hive\.example\.org"):
        check_listeners(Settings(nats_host="10.0.0.6"), served)


def test_machines_are_told_a_name_that_the_certificate_covers(tmp_path: Path) -> None:
    served = made(tmp_path, "hive.example.org", "10.0.0.5", "fd00::5")
    told = {host: api_host(Settings(host=host), served) for host in ("0.0.0.0", "10.0.0.5", "10.0.0.6", "fd00::5")}
    assert told == {
        "0.0.0.0": "hive.example.org", "10.0.0.5": "10.0.0.5", "10.0.0.6": "hive.example.org", "fd00::5": "[fd00::5]",
    }  # fmt: skip
    assert api_host(Settings(), served) == "", "on loopback nobody else reaches it"
    assert api_host(Settings(host="0.0.0.0", behind_proxy=True), served) == "", (
        "nor where it is the proxy that they reach"
    )
    assert api_host(Settings(host="0.0.0.0"), None) == ""


# What leaves the machine in the clear


@pytest.mark.parametrize("url", ["http://hive.example.org", "http://10.0.0.5:8420", "http://127.0.0.1.example.org"])
def test_no_key_goes_over_plain_http_to_another_machine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INSECURE_ENV, raising=False)
    with pytest.raises(Untrusted, match=r"is not encrypted.*use https://.*HIVE_INSECURE=1"):
        AsyncHive(url, "hive_x")
    with pytest.raises(TlsError, match="is not encrypted"):
        check_private(url, {INSECURE_ENV: "yes"})
    monkeypatch.setenv(INSECURE_ENV, "1")
    assert AsyncHive(url, "hive_x").url == url
    with pytest.raises(TlsError, match="is not encrypted"):
        check_private(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8420", "http://localhost", "http://[::1]:1", "https://hive.example.org"]
)
def test_what_stays_here_or_is_encrypted_may_carry_keys(url: str) -> None:
    assert AsyncHive(url, "hive_x").url == url


# Fingerprints


def test_a_fingerprint_is_taken_as_people_write_it() -> None:
    assert pin_of("AB:" * 16 + "cd") == "ab" * 16 + "cd"
    assert split_pin("https://h:1/#" + "0" * 32) == ("https://h:1", "0" * 32)
    assert split_pin("http://h/") == ("http://h", "")


@pytest.mark.parametrize("url", ["https://h#abc", "https://h#" + "g" * 64, "http://h#" + "0" * 64])
def test_what_is_no_fingerprint_is_refused(url: str) -> None:
    with pytest.raises(TlsError, match="fingerprint"):
        split_pin(url)


def test_a_server_certificate_does_not_last_longer_than_browsers_take(tmp_path: Path) -> None:
    served = made(tmp_path)
    assert served.begins_s < time.time() < served.ends_s
    assert served.ends_s - served.begins_s < 398 * DAY_S
