"""Facts about a pool's own writer."""

from typing import ClassVar

from events.base import Event


class PoolEvent(Event):
    """Every pool fact names its pool first."""

    entity: ClassVar[str] = "pool"
    pool: str


class WriterLed(PoolEvent, tag="pool.writer_led"):
    """A control plane took the place of this subject's one writer. `signing_key`: the public key with which it signs what
    workers are told.
    """

    writer: str
    version: str = ""
    signing_key: str = ""


AnyPoolEvent = WriterLed
