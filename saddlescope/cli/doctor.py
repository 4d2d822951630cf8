"""`saddlescope doctor`: what is installed here, on which devices, and what is missing for what."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version

import typer

from saddlescope._version import __version__
from saddlescope.cli.console import one_line_errors
from saddlescope.cli.rows import Json

PURPOSE = {
    "bench": "other tools beside this one (`bench`, `check`)",
    "docs": "building the documentation",
    "integrations": "the examples with Lightning, Hugging Face and accelerate",
    "lint": "the checks of the sources",
    "notebooks": "the studies as notebooks",
    "tensorboard": "`train --tensorboard`",
    "test": "the tests",
}
"""What an extra is for."""


@one_line_errors
def doctor(json: Json = False) -> None:
    """Print versions, devices, threads and optional packages: what an issue should be sent with.

    A missing optional package is no failure: it is named with what it is for.
    """
    import torch

    from saddlescope.runs import to_json

    lines = [
        ("saddlescope", __version__),
        ("Python", f"{platform.python_version()} on {platform.platform()}"),
        *((name, installed(name) or "missing") for name in _needed("")),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        ("data", os.environ.get("SADDLESCOPE_DATA") or "SADDLESCOPE_DATA is not set: --data-root"),
        *((f"device {name}", text) for name, text in devices()),
        *((f"extra {extra}", state(extra)) for extra in _extras()),
    ]
    if json:
        typer.echo(to_json(dict(lines), indent=2))
        return
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        typer.echo(f"{name:{width}}  {text}")


def installed(package: str) -> str | None:
    """Return the version of an installed package, None of another."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def devices() -> list[tuple[str, str]]:
    """List the devices that `--device` takes here, with what they are."""
    import torch

    from saddlescope.training import fast_bfloat16

    slow = "" if fast_bfloat16() else ', precision = "bf16" is slow (no AVX-512)'
    found = [("cpu", (platform.processor() or platform.machine()) + slow)]
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        found.append((f"cuda:{index}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB"))
    if len(found) == 1:
        built = torch.version.cuda
        found.append(
            ("cuda", f"none: torch was built for CUDA {built}, and no device answers")
            if built
            else ("cuda", "none: this torch was built without CUDA")
        )
    return found


def state(extra: str) -> str:
    """Say whether everything of an extra is there, and if not what it is for."""
    missing = [name for name in _needed(extra) if installed(name) is None]
    if not missing:
        return "complete"
    purpose = f", for {PURPOSE[extra]}" if extra in PURPOSE else ""
    return f"without {', '.join(missing)}{purpose}: pip install 'saddlescope[{extra}]'"


def _requirements() -> list[tuple[str, str]]:
    """(package, extra) of everything that the installed metadata name; extra "" is needed."""
    try:
        lines = requires("saddlescope") or []
    except PackageNotFoundError:  # run from sources that were never installed
        return []
    pairs = []
    for line in lines:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == ['\"](\w+)", line)
        if name:
            pairs.append((name[0], extra[1] if extra else ""))
    return pairs


def _needed(extra: str) -> list[str]:
    return sorted({name for name, of in _requirements() if of == extra}, key=str.lower)


def _extras() -> list[str]:
    return sorted({of for _, of in _requirements() if of})
