"""What users may be called, and which names are too much alike to stand beside each other. Pure.

A name is 3 to 32 letters of one script, digits, `_`, `.` and `-`. Two names that fold to the same text cannot both be
taken: the fold forgets case, accents, which separator it is, and what the eye confuses (0 and o, 1, l and i, rn and m,
Cyrillic and Latin letters of the same shape).
"""

import re
import unicodedata
from itertools import pairwise

from events.base import UserId

NAME_CHARS_MIN, NAME_CHARS_MAX = 3, 32
SEPARATORS = "_.-"
USER_ID = re.compile(r"u[a-z2-7]{16}\Z")

_SCRIPTS = {
    **{name: name for name in ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "HEBREW", "ARABIC", "GEORGIAN", "HANGUL")},
    **dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA"), "CJK"),
}
"""The first word of a letter's Unicode name, and the script that it stands for. Japanese is written in three."""
_PLAIN_LATIN = frozenset("abcdefghijklmnopqrstuvwxyzßæœøđłþðħ")
"""Latin letters without their accents. Others are phonetic signs, mostly copies of these."""

_LOOKALIKES = str.maketrans(
    {
        "0": "o", "1": "l", "i": "l", "ı": "l", "5": "s", "_": "-", ".": "-",
        "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ł": "l", "þ": "p", "ħ": "h",
        # Cyrillic
        "а": "a", "в": "b", "с": "c", "ԁ": "d", "е": "e", "ѕ": "s", "һ": "h", "і": "l", "ӏ": "l", "ј": "j", "к": "k",
        "м": "m", "н": "h", "о": "o", "р": "p", "ԛ": "q", "г": "r", "т": "t", "ѵ": "v", "у": "y", "ԝ": "w", "х": "x",
        "з": "3", "ь": "b", "ѡ": "w", "п": "n",
        # Greek
        "α": "a", "β": "b", "ε": "e", "η": "n", "ι": "l", "κ": "k", "μ": "u", "ν": "v", "ο": "o", "ρ": "p", "σ": "o",
        "τ": "t", "υ": "u", "χ": "x", "γ": "y", "ω": "w", "ζ": "z",
        # Armenian
        "օ": "o", "ո": "n", "ս": "u", "հ": "h", "ց": "g", "զ": "q", "յ": "j", "ք": "p", "ղ": "n", "ա": "w", "ռ": "n",
    }
)  # fmt: skip
_PAIRS = (("rn", "m"), ("vv", "w"))

RESERVED = frozenset(
    [
        "abuse",
        "access",
        "account",
        "accounts",
        "admin",
        "administrator",
        "all",
        "anonymous",
        "anybody",
        "api",
        "audit",
        "auth",
        "bank",
        "billing",
        "bot",
        "chief",
        "everybody",
        "everyone",
        "guest",
        "help",
        "hive",
        "hivectl",
        "hostmaster",
        "info",
        "invite",
        "ledger",
        "login",
        "mail",
        "me",
        "mint",
        "moderator",
        "nats",
        "nobody",
        "none",
        "null",
        "observer",
        "official",
        "operator",
        "owner",
        "platform",
        "pool",
        "postgres",
        "postmaster",
        "registrar",
        "root",
        "security",
        "self",
        "server",
        "service",
        "staff",
        "sudo",
        "superuser",
        "support",
        "sys",
        "sysadmin",
        "system",
        "team",
        "test",
        "treasury",
        "undefined",
        "user",
        "users",
        "webmaster",
        "worker",
        "workers",
        "www",
    ]
)


class BadName(Exception):
    """Nobody may be called so; the text says why."""


def canonical(name: str) -> str:
    """The name as it is compared for being the same one: composed, and without case."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def fold(name: str) -> str:
    """What names that the eye confuses have in common. Folding twice changes nothing."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", canonical(name)) if not unicodedata.combining(c))
    text = bare.translate(_LOOKALIKES)
    for pair, one in _PAIRS:
        text = text.replace(pair, one)
    return text


_RESERVED_FOLDED = frozenset(map(fold, RESERVED))


def check_name(name: str) -> None:
    """Raise BadName unless somebody may be called `name`. Whether it is taken is another question."""
    if not NAME_CHARS_MIN <= len(name) <= NAME_CHARS_MAX:
        raise BadName(f"has {len(name)} characters; use {NAME_CHARS_MIN} to {NAME_CHARS_MAX}")
    if strange := next((c for c in name if not _allowed(c)), ""):
        raise BadName(f"holds {strange!a}; use letters, digits, '_', '.' and '-'")
    if name[0] in SEPARATORS or name[-1] in SEPARATORS:
        raise BadName("must begin and end with a letter or a digit")
    if any(a in SEPARATORS and b in SEPARATORS for a, b in pairwise(name)):
        raise BadName("has two of '_', '.' and '-' beside each other")
    scripts = {_script(c) for c in name if c.isalpha()}
    if not scripts:
        raise BadName("needs a letter")
    if len(scripts) > 1 or "" in scripts:
        raise BadName("mixes alphabets, or uses letters that are easily confused; use those of one language")
    if USER_ID.match(name):
        raise BadName("looks like the id of a user")
    if is_reserved(name):
        raise BadName("is reserved; choose another")


def is_reserved(name: str) -> bool:
    """Whether it could pass for a part of the hive: every part of it, numbers aside, is a reserved word."""
    parts = [part.strip("0123456789") or part for part in re.split(r"[_.-]", canonical(name)) if part]
    whole = "".join(parts)
    return fold(whole) in _RESERVED_FOLDED or all(fold(part) in _RESERVED_FOLDED or part.isdecimal() for part in parts)


def _allowed(c: str) -> bool:
    if c.isascii():
        return c.isalnum() or c in SEPARATORS
    # One that has a plainer form would be another name that looks the same.
    return unicodedata.category(c) in ("Lu", "Ll", "Lo") and unicodedata.normalize("NFKC", c) == c


def _script(c: str) -> str:
    """The script of a letter; "" for one that is not to be used."""
    script = _SCRIPTS.get(unicodedata.name(c, "").split(" ")[0], "")
    if script == "LATIN":
        bare = unicodedata.normalize("NFKD", canonical(c))[:1]
        return script if bare in _PLAIN_LATIN or canonical(c) == "ss" else ""
    return script


def user_id(drawn: bytes) -> UserId:
    """The id that 10 random bytes give."""
    digits = int.from_bytes(drawn[:10], "big")
    return "u" + "".join("abcdefghijklmnopqrstuvwxyz234567"[digits >> 5 * at & 31] for at in range(16))
