"""Sizes and amounts as people read them. Pure."""

HOUR_MS = 3_600_000
"""Milliseconds of an hour."""
MICRO = 1_000_000
"""µCPT of a CPT."""


def size_text(count: int) -> str:
    """A number of bytes: `512 B`, `1.5 MiB`, `256 MiB`; rounded to a tenth."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f}".removesuffix(".0") + f" {'KMGT'[power - 1]}iB"


def cpt_text(amount: int) -> str:
    """µCPT in CPT, exactly: 1500000 is `1.5`."""
    sign, whole, rest = "-" if amount < 0 else "", abs(amount) // MICRO, abs(amount) % MICRO
    return f"{sign}{whole}.{rest:06}".rstrip("0").rstrip(".")
