"""Sizes as people read them. Pure."""


def size_text(count: int) -> str:
    """A number of bytes: `512 B`, `1.5 MiB`, `256 MiB`; rounded to a tenth."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f}".removesuffix(".0") + f" {'KMGT'[power - 1]}iB"
