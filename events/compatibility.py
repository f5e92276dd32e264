"""Whether a changed catalogue still reads what is on some log: two of its JSON Schemas compared. Pure."""

from typing import Any, TypeAlias, cast

Schema: TypeAlias = dict[str, Any]


def breaks(old: Schema, new: Schema) -> list[str]:
    """Why what was written under schema `old` cannot all be read as it was meant under `new`. Empty when it can.

    Events are known by their tags, so that a class may be renamed; what they hold is known by name.
    """
    wrong: list[str] = []
    before, after = _definitions(old), _definitions(new)
    for name, was in before.items():
        if name not in after:
            wrong.append(f"{name} is gone or was renamed; events stay in the catalogue for ever")
            continue
        now = after[name]
        for field, shape in was["properties"].items():
            if field not in now["properties"]:
                wrong.append(f"{name}.{field} is gone or was renamed; keep it and add another field")
            elif reason := _narrower(shape, now["properties"][field]):
                wrong.append(f"{name}.{field} {reason}")
        needed_before, needed_now = set(was.get("required", [])), set(now.get("required", []))
        wrong += [f"{name}.{field} has no default; what was written lacks it" for field in needed_now - needed_before]
        wrong += [f"{name}.{field} got a default; older readers need it" for field in needed_before - needed_now]
    return sorted(wrong)


def _tag(name: str, body: Schema) -> str:
    tag: Any = body["properties"].get("type", {}).get("enum")
    return str(tag[0]) if tag else name


def _definitions(schema: Schema) -> dict[str, Schema]:
    """Definitions by tag, with every reference by tag too."""
    tags = {f"#/$defs/{name}": _tag(name, body) for name, body in schema["$defs"].items()}

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: tags.get(inner, inner) if key == "$ref" else named(inner)
                for key, inner in cast(Schema, value).items()
            }
        return [named(inner) for inner in cast("list[Any]", value)] if isinstance(value, list) else value

    return {_tag(name, body): named(body) for name, body in schema["$defs"].items()}


def _narrower(old: Schema, new: Schema) -> str:
    """Why a value of shape `old` may not fit shape `new`; empty when each does."""
    if old.get("default") != new.get("default"):
        return f"has another default ({old.get('default')!r}, now {new.get('default')!r}); what was written left it out"
    if "enum" in old and "enum" in new:
        gone = set(old["enum"]) - set(new["enum"])
        return f"no longer takes {', '.join(sorted(map(str, gone)))}" if gone else ""
    if "anyOf" in old and "anyOf" in new:
        return "takes fewer types" if any(one not in new["anyOf"] for one in old["anyOf"]) else ""
    for inner in ("items", "additionalProperties"):
        if isinstance(old.get(inner), dict) and isinstance(new.get(inner), dict):
            if reason := _narrower(old[inner], new[inner]):
                return reason
            old, new = {**old, inner: None}, {**new, inner: None}
    return "" if old == new else "has another type; keep it and add another field"
