"""Seeds by name: every random draw has its own, so that one draw more leaves the others alone."""

import zlib

from saddlescope.errors import UsageError


def derived_seed(seed: int, *purpose: object) -> int:
    """Return a seed for one purpose, the same on every machine and in every order of calls."""
    return zlib.crc32("/".join(str(part) for part in (seed, *purpose)).encode())


def check_seed(seed: int) -> None:
    """Refuse a seed that NumPy, torch or a table's column of whole numbers does not take.

    Raises:
        UsageError: below 0, or 2⁶³ and more.
    """
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"seed = {seed}: expected a whole number from 0 to {(1 << 63) - 1}")
