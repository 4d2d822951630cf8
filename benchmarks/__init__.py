"""What is measured of saddlescope, and how: run from a clone, never installed."""

import os
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process of our own, which imports this clone before all else.

    Args:
        **more: variables to set besides.
    """
    found = os.pathsep.join(filter(None, (str(CLONE), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": found} | more
