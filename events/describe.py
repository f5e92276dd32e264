"""The catalogue as people and other programs read it: a terminal line, Markdown, JSON Schema, TypeScript. Pure.

`python -m events.describe --write` makes the generated files again, `--check` fails when one of them is stale; only
`main` touches files. `--write` refuses a change of the catalogue that would make facts already on some log unreadable.
"""

import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import inspect

from events.base import Event, Sealed, tag_of
from events.catalog import EVENTS, AnyEvent, Message, Unknown, position_text
from events.compatibility import Schema, breaks

LINE_LIST_MAX = 8
LINE_TEXT_CHARS_MAX = 120
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_DIGEST_SHOWN = 12
_BARE = re.compile(r"[^\s\"'=(){}\[\]<>]+\Z")


def runs_text(runs: list[int]) -> str:
    """Runs as people write them: [0, 2, 7, 7] is `0-2,7`."""
    pairs = zip(runs[::2], runs[1::2], strict=False)
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in pairs)


def line(position: int, at: int, by: str, event: AnyEvent | Unknown, offset_s: int = 0) -> str:
    """One terminal line: `12:03:44 job.submitted j1 count=3 by u1 @1.42`.

    `at` in ms since 1970, `offset_s` what local time is ahead of UTC. Values equal to their default are left out, what
    is sealed stays so, and nothing in it can move the cursor.
    """
    second = (at // 1000 + offset_s) % 86400
    clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    if isinstance(event, Unknown):
        tag, parts = event.tag, [_named(name, value) for name, value in event.body.items() if name != "type"]
    else:
        tag, (first, *rest) = tag_of(event), _said(event)
        parts = [_shown(first[1]), *(_named(name, value) for name, value in rest)]
    who = f" by {_shown(by)}" if by else ""
    return " ".join((clock, _plain(tag), *parts)) + f"{who} @{position_text(position)}"


def _said(value: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    """The fields of `value` that differ from their defaults; the first, an id, always."""
    for n, (name, default) in enumerate(_fields(type(value))):
        found = getattr(value, name)
        if n == 0 or found != default:
            yield name, found


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, _default(field)) for field in msgspec.structs.fields(kind))


def _default(field: Any) -> Any:
    """The default of a field as msgspec describes it; NODEFAULT when it is required."""
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default


def _named(name: str, value: Any) -> str:
    if name == "tasks" and isinstance(value, list):
        return f"tasks={_plain(runs_text(cast('list[int]', value)))}"
    return f"{_plain(name)}={_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, Sealed):
        return "<sealed>"
    if isinstance(value, msgspec.Struct):
        return "{" + " ".join(_named(name, found) for name, found in _said(value)) + "}"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        if value.keys() == {"key", "data"}:  # sealed, in an event of a newer version
            return "<sealed>"
        return "{" + " ".join(_named(str(name), found) for name, found in cast("dict[Any, Any]", value).items()) + "}"
    if isinstance(value, list | tuple):
        return _list(list(cast("list[Any]", value)))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _list(values: list[Any]) -> str:
    more = f" +{len(values) - LINE_LIST_MAX}" if len(values) > LINE_LIST_MAX else ""
    return "[" + " ".join(_shown(value) for value in values[:LINE_LIST_MAX]) + more + "]"


def _text(text: str) -> str:
    if _DIGEST.match(text):
        return text[:_DIGEST_SHOWN]
    if len(text) > LINE_TEXT_CHARS_MAX:
        text = text[:LINE_TEXT_CHARS_MAX] + "…"
    return _plain(text) if _BARE.match(text) else '"' + _plain(text).replace('"', '\\"') + '"'


def _plain(text: str) -> str:
    """`text` with everything that is not a printable character escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


# What the generated files share: the Structs, in order, events first.


def _structs() -> list[inspect.StructType]:
    """The message, every event, and every Struct that one of them holds, each once."""
    found: dict[str, inspect.StructType] = {}

    def visit(node: inspect.Type) -> None:
        match node:
            case inspect.StructType():
                if node.cls.__name__ not in found:
                    found[node.cls.__name__] = node
                    for field in node.fields:
                        visit(field.type)
            case inspect.ListType() | inspect.VarTupleType():
                visit(node.item_type)
            case inspect.UnionType():
                for one in node.types:
                    visit(one)
            case _:
                pass

    for kind in (*EVENTS, Message):
        visit(inspect.type_info(kind))
    return list(found.values())


def _doc(kind: type[Any]) -> str:
    return " ".join((kind.__doc__ or "").split())


def _is_event(node: inspect.StructType) -> bool:
    return issubclass(node.cls, Event)


def _is_any_event(node: inspect.UnionType) -> bool:
    return {getattr(one, "cls", None) for one in node.types} == set(EVENTS)


def _python(node: inspect.Type) -> str:
    """A type as the Markdown shows it."""
    match node:
        case inspect.StrType():
            return "str"
        case inspect.IntType():
            return "int"
        case inspect.FloatType():
            return "float"
        case inspect.BoolType():
            return "bool"
        case inspect.BytesType():
            return "bytes"
        case inspect.NoneType():
            return "nothing"
        case inspect.LiteralType():
            return " or ".join(f"`{value}`" for value in node.values)
        case inspect.ListType() | inspect.VarTupleType():
            return f"list of {_python(node.item_type)}"
        case inspect.DictType():
            return f"map of {_python(node.key_type)} to {_python(node.value_type)}"
        case inspect.UnionType():
            return "any event" if _is_any_event(node) else " or ".join(_python(one) for one in node.types)
        case inspect.StructType():
            return f"[{node.cls.__name__}](#{node.cls.__name__.lower()})"
        case _:
            raise TypeError(f"no word yet for {node}: add one to events.describe")


def _typescript(node: inspect.Type) -> str:
    match node:
        case inspect.StrType():
            return "string"
        case inspect.IntType() | inspect.FloatType():
            return "number"
        case inspect.BoolType():
            return "boolean"
        case inspect.BytesType():
            return "Base64"
        case inspect.NoneType():
            return "null"
        case inspect.LiteralType():
            return " | ".join(f'"{value}"' for value in node.values)
        case inspect.ListType() | inspect.VarTupleType():
            item = _typescript(node.item_type)
            return f"({item})[]" if " " in item else f"{item}[]"
        case inspect.DictType():
            return f"Record<{_typescript(node.key_type)}, {_typescript(node.value_type)}>"
        case inspect.UnionType():
            return "AnyEvent" if _is_any_event(node) else " | ".join(_typescript(one) for one in node.types)
        case inspect.StructType():
            return node.cls.__name__
        case _:
            raise TypeError(f"no TypeScript yet for {node}: add it to events.describe")


_GENERATED = "Generated by `python -m events.describe --write` from events/; edit those."


def markdown() -> str:
    """docs/events.md: every event with its fields, then the Structs they use."""
    out = [
        "# Events",
        "",
        f"<!-- {_GENERATED} -->",
        "",
        "Everything that can happen. Events travel in [messages](#message), one append and one fsync each, on the",
        "subject of their one writer: `evt.pool.<pool>`, `evt.accounts.main` or `evt.ledger.main`. Tags and field names",
        "are the storage format: fields are only ever",
        "added, with defaults, and a field equal to its default is not written. A reader ignores fields it does not",
        "know, and counts and skips tags it does not know. `tasks` is a set of task numbers as closed ranges, flat and",
        "ascending: `[0, 2, 7, 7]` is 0, 1, 2 and 7. Times are in milliseconds since 1970, sizes in bytes.",
        "",
        "| event | |",
        "|---|---|",
        *(f"| [{tag_of(kind)}](#{_anchor(kind)}) | {_doc(kind)} |" for kind in EVENTS),
    ]
    events = [node for node in _structs() if _is_event(node)]
    for node in events:
        out += ["", f"## {node.tag}", "", _doc(node.cls), "", *_table(node)]
    out += ["", "## What they are made of"]
    for node in _structs():
        if not _is_event(node):
            out += ["", f"### {node.cls.__name__}", "", _doc(node.cls), "", *_table(node)]
    return "\n".join(out) + "\n"


def _anchor(kind: type[Event]) -> str:
    return tag_of(kind).replace(".", "")


def _table(node: inspect.StructType) -> list[str]:
    if not node.fields:
        return []
    return ["| field | type | default |", "|---|---|---|", *(_row(field) for field in node.fields)]


def _row(field: inspect.Field) -> str:
    default = _default(field)
    if default is msgspec.NODEFAULT:
        shown = ""
    elif isinstance(default, msgspec.Struct):
        shown = "its defaults"
    else:
        shown = f"`{msgspec.json.encode(default).decode()}`"
    return f"| {field.encode_name} | {_python(field.type)} | {shown} |"


def typescript() -> str:
    """web/ui/events.ts: a discriminated union of all events, and the message that carries them."""
    out = [
        f"// {_GENERATED}",
        "// A field that may be missing has the default that its comment names.",
        "",
        "/** Bytes, in base64. */",
        "export type Base64 = string;",
    ]
    for node in _structs():
        out += ["", f"/** {_doc(node.cls)} */", f"export interface {node.cls.__name__} {{"]
        if _is_event(node):
            out += [f'  type: "{node.tag}";']
        out += [_property(field) for field in node.fields]
        out += ["}"]
    out += ["", "export type AnyEvent =", *(f"  | {kind.__name__}" for kind in EVENTS)]
    return "\n".join(out) + ";\n"


def _property(field: inspect.Field) -> str:
    default = _default(field)
    kind = _typescript(field.type)
    if default is msgspec.NODEFAULT:
        return f"  {field.encode_name}: {kind};"
    return f"  /** Default: {msgspec.json.encode(default).decode()} */\n  {field.encode_name}?: {kind};"


def json_schema() -> Schema:
    """JSON Schema of a message, with every event under `$defs`: what a log may hold."""
    return msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(Message)))


def _schema_text() -> str:
    return msgspec.json.format(msgspec.json.encode(json_schema(), order="deterministic"), indent=2).decode() + "\n"


SCHEMA_FILE = "tests/golden/events.schema.json"
FILES: dict[str, Callable[[], str]] = {
    "docs/events.md": markdown,
    "web/ui/events.ts": typescript,
    SCHEMA_FILE: _schema_text,
}
"""What is generated, by its path in the project."""


def stale(root: Path) -> list[str]:
    """The generated files below `root` that are missing or not current."""
    return [name for name, make in FILES.items() if not (root / name).is_file() or (root / name).read_text() != make()]


def main(arguments: list[str]) -> int:
    """The exit code: 0 when all is well, 1 when not, 2 when not asked properly."""
    root = Path(__file__).parent.parent
    if arguments not in (["--write"], ["--check"]):
        print("usage: python -m events.describe --write | --check", file=sys.stderr)
        return 2
    golden = root / SCHEMA_FILE
    if golden.is_file() and (wrong := breaks(msgspec.json.decode(golden.read_bytes()), json_schema())):
        print("This change of the catalogue makes facts unreadable that some log may hold:", file=sys.stderr)
        print("\n".join(f"  {reason}" for reason in wrong), file=sys.stderr)
        print(f"Only if no log anywhere has them: remove {SCHEMA_FILE}, then --write.", file=sys.stderr)
        return 1
    old = stale(root)
    if arguments == ["--check"]:
        for name in old:
            print(f"{name} is not current; run: python -m events.describe --write", file=sys.stderr)
        return 1 if old else 0
    for name in old:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(FILES[name]())
        print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
