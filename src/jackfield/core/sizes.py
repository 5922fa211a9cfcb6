"""Sizes: numbers of bytes as people read them."""


def byte_text(count: float) -> str:
    """Bytes with a unit, in powers of a thousand.

    >>> byte_text(1152), byte_text(42_700_000_000)
    ('1.15 kB', '42.7 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
