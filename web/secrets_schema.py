"""What goes in and out of the routes of secrets for tasks."""

from typing import Annotated

import msgspec
from msgspec import Meta

from web.schema import Moment

VALUE_CHARS_MAX = 16 * 1024


class SecretBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The secret's value: it goes into an environment, so it is text without NUL characters."""

    value: Annotated[str, Meta(min_length=1, max_length=VALUE_CHARS_MAX)]


class SecretView(msgspec.Struct, frozen=True, gc=False):
    """A secret; its value is shown to nobody."""

    name: str
    set_at: Moment


class SecretsAnswer(msgspec.Struct, frozen=True, gc=False):
    """The caller's secrets, by name."""

    secrets: list[SecretView]


class TaskBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Which task of the job."""

    index: Annotated[int, Meta(ge=0)]


class SealedAnswer(msgspec.Struct, frozen=True, gc=False):
    """The task's secrets, in base64, sealed to the key of the worker that has a lease of it."""

    sealed: str
