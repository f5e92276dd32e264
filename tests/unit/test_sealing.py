"""Text under a key: back unchanged, gone without the key, never read wrongly."""

from collections.abc import Callable

import pytest

from events.base import Sealed
from infra.sealing import KEY_BYTES, KeyDestroyed, SealBroken, Sealer

KEY = bytes(range(KEY_BYTES))


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 300])
def test_comes_back_as_it_was(data: bytes) -> None:
    sealed = Sealer(KEY).seal(data)
    assert sealed.key == "k1"
    assert len(data) < 32 or data not in sealed.data  # a few bytes may stand there by chance
    assert Sealer(KEY).open(sealed) == data


def test_the_same_text_never_looks_the_same() -> None:
    sealer = Sealer(KEY)
    assert sealer.seal(b"echo hello").data != sealer.seal(b"echo hello").data


def test_a_destroyed_key_is_named() -> None:
    with pytest.raises(KeyDestroyed, match="'k1'"):
        Sealer(KEY, "k2").open(Sealer(KEY).seal(b"x"))


@pytest.mark.parametrize(
    "change", [lambda d: d[:-1], lambda d: d[:-1] + bytes([d[-1] ^ 1]), lambda d: b"", lambda d: d[:10]]
)
def test_a_changed_byte_is_noticed(change: Callable[[bytes], bytes]) -> None:
    sealed = Sealer(KEY).seal(b"echo hello")
    with pytest.raises(SealBroken):
        Sealer(KEY).open(Sealed(sealed.key, change(sealed.data)))


def test_another_key_of_the_same_name_does_not_open() -> None:
    with pytest.raises(SealBroken):
        Sealer(bytes(KEY_BYTES)).open(Sealer(KEY).seal(b"x"))
