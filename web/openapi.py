"""The OpenAPI document: Litestar's, with what it cannot know put in (bodies that we read ourselves, the key)."""

from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, Operation, RequestBody, Schema, SecurityScheme
from litestar.openapi.spec.media_type import OpenAPIMediaType
from litestar.types import Method
from litestar.types.internal_types import PathParameterDefinition

from events.spec import JobSpec
from web.schema import SubmitAnswer

EXAMPLES: dict[str, Any] = {
    "one": {"summary": "One job", "value": {"command": ["echo", "hello"], "name": "greeting"}},
    "array": {
        "summary": "An array of 100 tasks",
        "value": {"command": ["sh", "-c", "echo task $HIVE_INDEX"], "count": 100},
    },
    "chain": {
        "summary": "Two jobs, the second after the first",
        "value": [
            {"ref": "make", "command": ["sh", "-c", "date > out.txt"], "results": ["out.txt"]},
            {"command": ["cat", "in/0/out.txt"], "after": ["make"], "inputs": [{"path": "in", "job": "make"}]},
        ],
    },
}
_JSON = "application/json"
_EVENTS = "text/event-stream"


@dataclass
class SubmitOperation(Operation):
    """Marks that there is a body; what it is comes in `render`."""

    def __post_init__(self) -> None:
        """Put the mark."""
        self.request_body = RequestBody(content={_JSON: OpenAPIMediaType(schema=Schema())}, required=True)


@dataclass
class BytesOperation(Operation):
    """Takes bytes as they are."""

    def __post_init__(self) -> None:
        """Say so."""
        content = {"application/octet-stream": OpenAPIMediaType(schema=Schema())}
        self.request_body = RequestBody(content=content, required=True)


class TrueSchema(JsonRenderPlugin):
    """Renders the document as JSON, made once."""

    def __init__(self, path: str, open_paths: frozenset[str]) -> None:
        super().__init__(path=path)
        self._open_paths = open_paths
        self._document = b""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The document's bytes."""
        if not self._document:
            self._document = msgspec.json.encode(complete(openapi_schema, self._open_paths))
        return self._document


def complete(document: dict[str, Any], open_paths: frozenset[str]) -> dict[str, Any]:
    """The document with what Litestar does not know: submissions, streams, paths that need no key."""
    (spec, answer), schemas = msgspec.json.schema_components(
        [JobSpec, SubmitAnswer], ref_template="#/components/schemas/{name}"
    )
    known: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
    for name, schema in schemas.items():
        known.setdefault(name, schema)
    submit = document["paths"]["/v1/jobs"]["post"]
    either = {"oneOf": [spec, {"type": "array", "items": spec, "minItems": 1, "maxItems": 1000}]}
    submit["requestBody"]["content"] = {_JSON: {"schema": either, "examples": EXAMPLES}}
    submit["responses"]["201"] = {
        "description": "All of it is taken in, and on disk",
        "content": {_JSON: {"schema": answer}},
    }
    for path in open_paths:
        for operation in document["paths"][path].values():
            operation["security"] = []
    for operations in document["paths"].values():
        for operation in operations.values():
            _complete_answers(operation)
    _complete_streams(document["paths"])
    return document


def _complete_answers(operation: dict[str, Any]) -> None:
    """Answers that Litestar does not tell, or tells wrongly: 413 of every body, and that a 204 has none."""
    answers = operation["responses"]
    if "requestBody" in operation:
        answers.setdefault("413", {**answers["400"], "description": "The body is too large"})
    if "204" in answers:
        answers["204"].pop("content", None)


def _complete_streams(paths: dict[str, Any]) -> None:
    """What one server-sent event is; before OpenAPI 3.2 a stream's schema is that of each of its events."""
    listed = paths["/v1/events"]["get"]["responses"]["200"]["content"][_EVENTS]
    listed["schema"] = _event(listed["schema"])
    printed = paths["/v1/jobs/{job}/tasks/{index}/output"]["get"]["responses"]["200"]["content"]
    printed[_EVENTS] = {"schema": _event({"type": "object"})}


def _event(data: dict[str, Any]) -> dict[str, Any]:
    """A server-sent event whose `data` is JSON of this schema."""
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "event": {"type": "string"},
            "data": {"type": "string", "contentMediaType": _JSON, "contentSchema": data},
        },
        "required": ["data"],
    }


def _operation(handler: HTTPRouteHandler, method: Method, _parts: list[str | PathParameterDefinition]) -> str:
    """The handler's own name; a HEAD beside a GET needs another."""
    name = handler.handler_name
    return f"{name}_head" if method == "HEAD" else name


def config(version: str, open_paths: frozenset[str]) -> OpenAPIConfig:
    """How the document is made. `open_paths`: those that need no key."""
    key = SecurityScheme(type="http", scheme="bearer", description="An API key, or an access token")
    ticket = SecurityScheme(
        type="apiKey", name="Authorization", security_scheme_in="header", description="`Ticket <ticket>`: a worker's"
    )
    return OpenAPIConfig(
        title="Hive",
        version=version,
        description="Submit work to a pool of machines, follow it, and fetch what it left. Errors are RFC 9457 problems.",
        path="/schema",
        render_plugins=[TrueSchema("/openapi.json", open_paths)],
        components=Components(security_schemes={"key": key, "ticket": ticket}),
        security=[{"key": []}],
        operation_id_creator=_operation,
        use_handler_docstrings=False,
    )
