"""What every test shares: profiles for hypothesis, one seed a run, and a whole run in parallel.

Environment: `HIVE_TEST_REQUIRE` names what may not be missing (see needs.py), `HIVE_TEST_PROFILE` is fast, ci or deep,
`HIVE_TEST_SEED` repeats a run. In CI the seed is the commit, so that every run differs and every failure comes back.
"""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent
os.environ["HIVE_ISOLATION"] = (
    "none"  # tests meet their tasks in files of this machine; test_worker_isolation.py does not
)
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("fast", max_examples=40, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("ci", max_examples=150, deadline=None, suppress_health_check=_SLOW, print_blob=True)
settings.register_profile("deep", max_examples=5_000, deadline=None, suppress_health_check=_SLOW, print_blob=True)
settings.load_profile(os.environ.get("HIVE_TEST_PROFILE") or ("ci" if os.environ.get("CI") else "fast"))


def _seed() -> int | None:
    """The seed that was asked for; in CI the commit's; otherwise none, and hypothesis draws its own."""
    if asked := os.environ.get("HIVE_TEST_SEED"):
        return int(asked, 0)
    if not os.environ.get("CI"):
        return None
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return int(commit[:8], 16) if commit else None


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Set the seed; run the whole suite in parallel unless it was asked otherwise (`-n 0`, `-p no:xdist`, `--pdb`)."""
    if config.getoption("--hypothesis-seed", None) is None and (seed := _seed()) is not None:
        config.option.hypothesis_seed = str(seed)
    if hasattr(config, "workerinput"):
        return  # a process that xdist started: it must not start more
    if not config.pluginmanager.hasplugin("xdist"):
        return
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    if whole and config.option.numprocesses is None:
        config.option.numprocesses = "auto"
    if config.option.numprocesses and config.option.dist == "no":
        config.option.dist = "worksteal"  # whoever has nothing left takes from the others, so that all end together


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Half as many processes again as there are processors: most tests wait for other processes now and then."""
    return max(2, (os.cpu_count() or 1) * 3 // 2)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In parallel the slow ones go first: begun last, one would run alone while the other processes have nothing to do."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed {config.getoption('--hypothesis-seed', None) or 'drawn'} (repeat a run with HIVE_TEST_SEED=...)"


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run, for simulations; 1 unless CI or HIVE_TEST_SEED say otherwise."""
    return int(request.config.getoption("--hypothesis-seed", None) or 1)
