"""The benchmark's JSON: units of work by key, each with the process that measured it.

Written after every unit, so that a run killed at any moment goes on where it stopped.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import clock_name
from saddlescope.curvature import tf32
from saddlescope.errors import DataError, UsageError
from saddlescope.runs import provenance, write_json

SCHEMA = 1

_PEERS = ("hessian-eigenthings", "curvlinops-for-pytorch", "pyhessian")
_FIXED = ("device", "device_name", "processor", "threads", "cores")
"""What may not differ between the units of one file."""


@dataclass(frozen=True)
class Unit:
    """A piece of work that is measured once.

    Attributes:
        key: its name, "part/case/tool/…".
        measure: the work; returns what to record. Reads what earlier units found from the record.
    """

    key: str
    measure: Callable[["Record"], dict[str, Any]]


class Record:
    """What has been measured, and by which process.

    Args:
        path: the JSON; read if it is there.
        device: of this process.

    Raises:
        DataError: not such a file.
        UsageError: made on other hardware or with another number of threads.
    """

    def __init__(self, path: Path, *, device: str) -> None:
        self.path = path
        with tf32(allowed=False):  # as units are measured; see `carry_out`
            about = provenance(device=device)
        self._process = about | {
            # A record is made to be shared: no folder of this machine goes with it.
            "command": [Path(word).name if "/" in word else word for word in about["command"]],
            "peers": peer_versions(),
            "clock": clock_name(torch.device(device)),
        }
        self._content: dict[str, Any] = {"schema": SCHEMA, "processes": [], "units": {}}
        if path.is_file():
            self._content = read_record(path)
            for before in self._content["processes"]:
                changed = [name for name in _FIXED if before[name] != self._process[name]]
                if changed:
                    raise UsageError(
                        f"{path} was measured with {changed[0]} = {before[changed[0]]}, not "
                        f"{self._process[changed[0]]}: times would not compare; name another -o"
                    )
        self._number: int | None = None

    def __contains__(self, key: str) -> bool:
        return key in self._content["units"]

    def __getitem__(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = self._content["units"][key]
        return found

    def put(self, key: str, found: dict[str, Any]) -> None:
        """Keep a unit and write the file."""
        if self._number is None:
            self._number = len(self._content["processes"])
            self._content["processes"].append(self._process)
        self._content["units"][key] = found | {"process": self._number}
        write_json(self.path, self._content)


def read_record(path: Path) -> dict[str, Any]:
    """The content of a benchmark's JSON.

    Raises:
        DataError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no benchmark record: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(f"{path}: no benchmark record of schema {SCHEMA}")
    processes, units = content.get("processes"), content.get("units")
    if not (
        isinstance(processes, list)
        and all(isinstance(process, dict) and set(_FIXED) <= set(process) for process in processes)
        and isinstance(units, dict)
        and all(isinstance(unit, dict) for unit in units.values())
    ):
        raise DataError(f"{path}: a benchmark record without its processes or units")
    return content


def peer_versions() -> dict[str, str | None]:
    """Versions of the other tools; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in _PEERS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
