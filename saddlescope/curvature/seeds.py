"""Seeds by name: every random draw has its own, so that one draw more leaves the others alone."""

import zlib


def derived_seed(seed: int, *purpose: object) -> int:
    """Return a seed for one purpose, the same on every machine and in every order of calls."""
    return zlib.crc32("/".join(str(part) for part in (seed, *purpose)).encode())
