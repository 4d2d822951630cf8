"""Where a result comes from: command, versions, hardware, commit, time."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from saddlescope._version import __version__

_LIBRARIES = ("torch", "numpy", "scipy", "pandas", "matplotlib", "pyhessian")


def provenance(*, device: str = "cpu", seed: int | None = None) -> dict[str, Any]:
    """Describe this process so that a reader can repeat what it did.

    Paths of the machine are left out: the command is kept with the program's bare name.
    """
    return {
        "saddlescope": __version__,
        "command": [_program(Path(sys.argv[0])), *sys.argv[1:]],
        "commit": _commit(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None,
        "device": device,
        "device_name": _device_name(device),
        "precision": _precision(),
        "seed": seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _program(path: Path) -> str:
    """The bare name of what was started; of `python -m NAME` that name."""
    return path.parent.name if path.name == "__main__.py" else path.name


def _precision() -> dict[str, Any] | None:
    """How torch computes in float32 now: "tf32" rounds to 10 bits, "ieee" and "none" do not."""
    if "torch" not in sys.modules:
        return None
    torch = sys.modules["torch"]
    return {
        "matmul": torch._C._get_fp32_precision_getter("cuda", "matmul"),
        "convolution": torch._C._get_fp32_precision_getter("cuda", "conv"),
        "deterministic": bool(torch.backends.cudnn.deterministic),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout saddlescope runs from, with "+" when it has local changes."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=5, check=True
    ).stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _device_name(device: str) -> str | None:
    if not device.startswith("cuda") or "torch" not in sys.modules:
        return None
    return str(sys.modules["torch"].cuda.get_device_name(device))
