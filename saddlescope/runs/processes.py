"""Python processes of our own: they import nothing from the current folder and end with us."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds this package: of an installed one, where all packages are."""

_START = (
    "import runpy, sys; root, parent, module = sys.argv[1:4]; sys.path.append(root); "
    "from saddlescope.runs.processes import end_with_parent; end_with_parent(int(parent)); "
    "sys.argv[1:4] = []; runpy.run_module(module, run_name='__main__', alter_sys=True)"
)
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def own_process(module: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs one of our modules, as `python -m` does but for two things.

    The current folder is not searched for modules (`-P`): a torch.py that lies there is nobody's
    torch. And it ends with this process, however that ends.

    Args:
        module: such as "saddlescope".
        arguments: of the module.
    """
    # The package's folder comes last: it may be a checkout that holds anything.
    return [
        sys.executable, "-P", "-c", _START, str(_ROOT), str(os.getpid()), module, *arguments
    ]  # fmt: skip


def end_with_parent(parent: int) -> None:
    """Have this process told to end (SIGTERM) when its parent ends; Linux only.

    Args:
        parent: its process number, as the parent knows it.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before we could ask
        os.kill(os.getpid(), signal.SIGTERM)
