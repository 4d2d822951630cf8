"""Peak memory of a tool on a case: the growth beside model and data, in a process of its own.

Two products of each tool: what a product needs is there with the first, and the Krylov basis grows
by one vector a product in every tool (ARPACK asks for all of its vectors at once). On a CPU the
peak is that of the resident set; glibc is told to give freed blocks back, or it would hold several
times what is in use. On CUDA it is the allocator's.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment
from benchmarks.compare.cases import Cases
from benchmarks.compare.ends import gradient_seconds
from benchmarks.compare.record import Record, Unit
from benchmarks.compare.tools import STREAMED, TOOLS, Tool
from saddlescope.curvature import tf32
from saddlescope.errors import OperatorError


def memory_units(
    names: Sequence[str],
    tools: Sequence[Tool],
    *,
    runs: Sequence[Path],
    data_root: Path | None,
    device: str,
) -> Iterator[Unit]:
    """Units of peak memory: the gradient of the same samples first, then every tool.

    Of this instrument also what it takes where it retains nothing.
    """
    keys = ["gradient", *(tool.key for tool in tools)]
    if "saddlescope" in keys:
        keys.insert(keys.index("saddlescope") + 1, STREAMED.key)
    for name in names:
        for key in keys:

            def measure(_: Record, name: str = name, key: str = key) -> dict[str, Any]:
                return _in_a_process(name, key, runs, data_root, device)

            yield Unit(f"memory/{name}/{key}", measure)


def _in_a_process(
    name: str, key: str, runs: Sequence[Path], data_root: Path | None, device: str
) -> dict[str, Any]:
    words = [name, key, "--device", device, "--threads", str(torch.get_num_threads()),
             "--data-root", str(data_root or ""),
             *(word for run in runs for word in ("--run", str(run)))]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare.peak", *words], capture_output=True, text=True,
        check=False, env=environment(MALLOC_MMAP_THRESHOLD_="65536"),
    )  # fmt: skip
    if done.returncode:
        if done.returncode < 0:
            return {"reason": f"killed by signal {-done.returncode}: out of memory, most likely"}
        raise OperatorError(f"peak memory of {key} on {name}: {done.stderr.strip()[-300:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """How much memory some work needs at its peak, beside what is in use before it.

    On a CPU the growth of this process's resident set (Linux), for which glibc should be told by
    MALLOC_MMAP_THRESHOLD_ to give freed blocks back; on CUDA the allocator's.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = int(torch.cuda.memory_allocated(device))
        work()
        return int(torch.cuda.max_memory_allocated(device)) - before
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    """A size of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise ValueError(field)


def peak_memory(cases: Cases, name: str, key: str) -> dict[str, Any]:
    """Peak bytes of one tool, or of the gradient, on a case; this process is spent afterwards."""
    problem = cases.problem(name)
    few = problem.take(2)
    tool = None if key == "gradient" else (TOOLS | {STREAMED.key: STREAMED})[key]

    def run(chosen: Any) -> None:
        if tool is None:
            gradient_seconds(chosen, least=0.0)
        else:
            tool.ends(chosen, tool.brief, 0)

    run(few)  # what is loaded and compiled stays, and is no cost of the samples
    peak = peak_bytes(cases.device, lambda: run(problem))
    return {"peak_bytes": peak, "setting": None if tool is None else tool.brief}


def _main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of one tool on one case.")
    parser.add_argument("case")
    parser.add_argument("tool")
    parser.add_argument("--run", type=Path, action="append", default=[])
    parser.add_argument("--data-root", default="")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = Cases(
        options.run, data_root=options.data_root or None, device=options.device, fitted=False
    )
    with tf32(allowed=False):
        found = peak_memory(cases, options.case, options.tool)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    _main()
