"""The audit: it finds what the ledger has, and says where a log goes wrong, whatever is wrong with it."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.cli.audit import of_file
from services.cli.failure import Failure
from services.ledger.audit import Audit, Wrong, export_line, head_line


def message(*events: dict[str, Any]) -> bytes:
    return json.dumps({"id": "m", "at": 1, "writer": "w", "decisions": [{"events": list(events)}]}).encode()


def line(debit: str, credit: str, amount: int) -> dict[str, Any]:
    return {"debit": debit, "credit": credit, "amount": amount}


def posted(name: str, *lines: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "transfer.posted", "transfer": name, "kind": "transfer", "postings": list(lines), **more}


def set_aside(name: str, payer: str, payee: str, amount: int, then: int = 0) -> dict[str, Any]:
    apart = f"pending:{name}"
    return {
        "type": "transfer.pending", "transfer": name, "kind": "transfer", "postings": [line(payer, apart, amount)],
        "then": [line(apart, payee, then or amount)], "expires_at": 9,
    }  # fmt: skip


def voided(name: str, *lines: dict[str, Any]) -> dict[str, Any]:
    return {"type": "transfer.voided", "transfer": name, "reason": "voided", "postings": list(lines)}


GRANT = posted("g", line("mint", "user:ada", 100), kind="grant")


def audited(*events: dict[str, Any]) -> Audit:
    audit = Audit()
    for position, event in enumerate((GRANT, *events), 1):
        audit.add(position, message(event))
    audit.finish()
    return audit


def test_it_adds_up() -> None:
    audit = audited(
        posted("t1", line("user:ada", "user:bob", 30)),
        set_aside("t2", "user:ada", "user:bob", 20),
        posted("t2", line("pending:t2", "user:bob", 5), line("pending:t2", "user:ada", 15)),
        set_aside("t3", "user:ada", "user:bob", 7),
        voided("t3", line("pending:t3", "user:ada", 7)),
        set_aside("t4", "user:bob", "user:cy", 1),
        {"type": "something.newer", "something": "x", "postings": [line("user:bob", "treasury", 1)], "mood": "good"},
    )
    assert audit.finish() == {"mint": -100, "user:ada": 65, "user:bob": 33, "pending:t4": 1, "treasury": 1}
    assert (audit.entries, audit.messages) == (9, 8)


WRONG: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a user owes": ([posted("t1", line("user:ada", "user:bob", 101))], "user:ada has -1"),
    "the treasury owes": ([posted("t1", line("treasury", "user:bob", 1))], "treasury has -1"),
    "nothing moves": ([posted("t1", line("user:ada", "user:bob", 0))], "no amount"),
    "more than there can be": ([posted("t1", line("mint", "user:bob", 10**15 + 1))], "no amount"),
    "no account": ([posted("t1", line("user:ada", "bob", 1))], "no account"),
    "nobody's account": ([posted("t1", line("user:ada", "user:", 1))], "no account"),
    "posted twice": ([posted("t1", line("user:ada", "user:bob", 1))] * 2, "t1 was posted"),
    "set aside twice": ([set_aside("t1", "user:ada", "user:bob", 1)] * 2, "began twice"),
    "begun after its end": (
        [posted("t1", line("user:ada", "user:bob", 1)), set_aside("t1", "user:ada", "user:bob", 1)], "began twice",
    ),
    "promises more": ([set_aside("t1", "user:ada", "user:bob", 1, 2)], "something else"),
    "pays half": (
        [set_aside("t1", "user:ada", "user:bob", 4), posted("t1", line("pending:t1", "user:bob", 2))], "does not empty",
    ),
    "pays from elsewhere": (
        [set_aside("t1", "user:ada", "user:bob", 4), posted("t1", line("user:ada", "user:bob", 4))], "does not empty",
    ),
    "gives back to another": (
        [set_aside("t1", "user:ada", "user:bob", 4), voided("t1", line("pending:t1", "user:bob", 4))], "somebody else",
    ),
    "gives back what never waited": ([voided("t1", line("user:ada", "user:bob", 4))], "did not wait"),
    "voided after posted": (
        [posted("t1", line("user:ada", "user:bob", 1)), voided("t1", line("user:bob", "user:ada", 1))], "did not wait",
    ),
    "waits for nothing": ([posted("t1", line("user:ada", "pending:t9", 1))], "what waits"),
    "corrects something else": (
        [
            {"type": "dispute.opened", "dispute": "d1", "user": "ada", "cites": "g", "amount": 1, "against": "mint"},
            posted("dispute:d1", line("user:ada", "treasury", 1), kind="correction", cites="t7"),
        ],
        "cites 't7'",
    ),
    "corrects what nobody disputed": (
        [posted("dispute:d1", line("user:ada", "treasury", 1), kind="correction", cites="g")], "cites 'g'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("events", "says"), WRONG.values(), ids=WRONG.keys())
def test_it_says_what_is_wrong(events: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(Wrong, match=says):
        audited(*events)


def test_it_says_where() -> None:
    audit = Audit()
    audit.add(3, message(GRANT))
    with pytest.raises(Wrong, match="at position 8: user:ada"):
        audit.add(8, message(posted("t1", line("user:ada", "user:bob", 101))))
    for wrong in (b"{", b"[]", b'{"decisions":[{"events":[{"type":"transfer.posted","postings":[{"debit":7}]}]}]}'):
        with pytest.raises(Wrong, match="at position 9"):
            audit.add(9, wrong)
        audit.position = 8
    with pytest.raises(Wrong, match="comes after"):
        audit.add(8, message())


@pytest.fixture
def export(tmp_path: Path) -> Path:
    file = tmp_path / "ledger.ndjson"
    first, second = message(GRANT), message(posted("t1", line("user:ada", "user:bob", 30)))
    file.write_bytes(head_line(9) + export_line(4, first) + export_line(9, second))
    return file


def test_an_export_is_audited(export: Path) -> None:
    assert of_file(export).finish() == {"mint": -100, "user:ada": 70, "user:bob": 30}


def test_a_packed_export_too(export: Path) -> None:
    import zstandard

    packed = export.with_suffix(".zst")
    packed.write_bytes(zstandard.ZstdCompressor().compress(export.read_bytes()))
    assert of_file(packed).finish() == {"mint": -100, "user:ada": 70, "user:bob": 30}


def test_a_changed_amount_is_found(export: Path) -> None:
    export.write_bytes(export.read_bytes().replace(b'"amount": 30', b'"amount": 300'))
    with pytest.raises(Wrong, match="user:ada has -200"):
        of_file(export)


def test_one_that_was_cut_is_found(export: Path) -> None:
    lines = export.read_bytes().splitlines(keepends=True)
    export.write_bytes(b"".join(lines[:2]))
    with pytest.raises(Wrong, match="ends here"):
        of_file(export)
    export.write_bytes(b"".join(lines[:2]) + lines[2][:40])
    with pytest.raises(Wrong, match="cannot be read"):
        of_file(export)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 and more", b'{"hive_ledger":99,"last":3}\n'])
def test_what_is_no_export_is_said_to_be_none(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "x"
    file.write_bytes(data)
    with pytest.raises(Failure):
        of_file(file)
