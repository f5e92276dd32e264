"""Settings: file, environment, flags; every mistake is named."""

from pathlib import Path

import pytest

from infra.settings import Settings, SettingsError, load

HUMAN = 'human_check_secret_file = "secret"\nhuman_check_site_key = "key"'


def test_nothing_set_is_a_hive_on_this_machine(tmp_path: Path) -> None:
    assert load(tmp_path, {}) == Settings()


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "hive.toml").write_text('pool = "file"\nport = 1\nnats_port = 2\n')
    settings = load(tmp_path, {"HIVE_PORT": "3", "HIVE_NATS_PORT": "4"}, nats_port=5, host=None)
    assert (settings.pool, settings.port, settings.nats_port, settings.host) == ("file", 3, 5, "127.0.0.1")


def test_texts_of_the_environment_become_what_they_mean(tmp_path: Path) -> None:
    settings = load(tmp_path, {"HIVE_UNSAFE_DURABILITY": "true", "HIVE_DISK_MIN_BYTES": "5"})
    assert settings.unsafe_durability is True
    assert settings.disk_min_bytes == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "unknown setting prot; the settings are pool, host, port"),
        ("port = 70000", "`port` is 70000; use 0 to 65535"),
        ('port = "many"', "`port`: Expected `int`"),
        ('pool = "a.b"', "`pool` is 'a.b'"),
        ('pool = "*"', "`pool`"),
        ('nats_url = "nats://x"', "`nats_url` needs `nats_seed_file`"),
        ("nats_replicas = 2", "`nats_replicas` is 2; use 1, 3 or 5"),
        ("nats_replicas = 3", "needs an external cluster"),
        ('tls_cert_file = "a.pem"', "`tls_cert_file` and `tls_key_file` belong together"),
        ('tls_ca_file = "a.pem"', "`tls_ca_file` goes with them"),
        ('trusted_proxies = ["proxy"]', "`trusted_proxies` has 'proxy'; use addresses or networks"),
        ('cors_origins = ["*"]', r"`cors_origins` has '\*'; use origins"),
        ('cors_origins = ["https://h/path"]', "`cors_origins` has"),
        ('nats_public_url = "nats://h:4222"', "`nats_public_url` has 'nats://h:4222'; use tls://"),
        ("nats_websocket_port = 70000", "`nats_websocket_port` is 70000"),
        ("disk_min_bytes = -1", "`disk_min_bytes` is -1"),
        ("open_jobs_max = -1", "`open_jobs_max` is -1; use 0 or more"),
        ('human_check_url = "https://h/verify"', "`human_check_url`, `human_check_secret_file` and .* belong together"),
        (f'human_check_url = "http://h.example/"\n{HUMAN}', "`human_check_url`: .* is not encrypted"),
        (f'human_check_url = "ftp://h.example/"\n{HUMAN}', "`human_check_url` is 'ftp://h.example/'; use"),
        ("port = ", "cannot be read"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "hive.toml").write_text(text)
    with pytest.raises(SettingsError, match=said):
        load(tmp_path, {})


def test_lists_of_the_environment_have_commas_between(tmp_path: Path) -> None:
    settings = load(tmp_path, {"HIVE_CORS_ORIGINS": "https://a, https://b:8", "HIVE_TRUSTED_PROXIES": "10.0.0.0/8"})
    assert settings.cors_origins == ["https://a", "https://b:8"]
    assert settings.trusted_proxies == ["10.0.0.0/8"]
    assert load(tmp_path, {"HIVE_CORS_ORIGINS": ""}).cors_origins == []


def test_a_slip_in_the_environment_is_named_and_other_names_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="HIVE_PROT in the environment is not a setting; did you mean HIVE_PORT"):
        load(tmp_path, {"HIVE_PROT": "1"})
    others = {"HIVE_URL": "http://x", "HIVE_KEY": "k", "HIVE_DATA": "/d", "HIVE_TASK_INDEX": "3", "HIVE_JOB": "j"}
    assert load(tmp_path, others) == Settings()
