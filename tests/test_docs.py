"""Documents that cannot rot unseen: links lead somewhere, and what is generated is current."""

import re
from pathlib import Path

import pytest

from events import describe

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(([^)\s]+)\)|<img[^>]+src=\"([^\"]+)\"")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head)).lower().replace(" ", "-")
        for head in heads
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    dead: list[str] = []
    for target in (one or other for one, other in LINK.findall(text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in _anchors(file)):
            dead.append(target)
    assert not dead, f"{page.name} links to what is not there: {', '.join(dead)}"


def test_generated_files_are_current() -> None:
    assert describe.stale(ROOT) == [], "run: .venv/bin/python -m events.describe --write"


def test_every_file_named_in_the_architecture_exists() -> None:
    named = re.findall(r"`((?:events|services|projections|worker|web|infra|tests|docs)/[\w./-]*\w)`", _architecture())
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


def _architecture() -> str:
    return (ROOT / "docs" / "architecture.md").read_text()
