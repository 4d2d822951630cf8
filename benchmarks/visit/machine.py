"""Stages a and b of a visit: the machine, and the tests that need CUDA."""

import re
import subprocess
import sys
import time
from importlib.util import find_spec

import torch

from benchmarks import CLONE
from benchmarks.compare.record import peer_versions
from saddlescope.runs import provenance

NEEDED = (
    "jinja2", "matplotlib", "numpy", "pandas", "PIL", "pydantic", "rich", "safetensors", "sklearn",
    "scipy", "tomli_w", "typer", "pytest", "hypothesis",
)  # fmt: skip
"""Modules that saddlescope and its CUDA tests import."""

OPTIONAL = ("pyhessian", "curvlinops", "hessian_eigenthings")
"""Modules of the tools that stage d compares with."""


def described(device):
    """Versions and hardware."""
    found = {"provenance": provenance(device=device), "peers": peer_versions()}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "memory_gib": properties.total_memory / 2**30,
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nvidia_smi": _said("nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm",
                                "--format=csv,noheader"),
        }  # fmt: skip
    return found


def _said(*words):
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)


def packages():
    """Which modules can be imported here; a missing one is to be carried along next time."""
    missing = [name for name in (*NEEDED, *OPTIONAL) if find_spec(name) is None]
    return {"missing": missing}


def speed(device, small):
    """A copy and three products, for scale: what the other numbers are to be read against."""
    size = 256 if small else 8192
    found, device = {}, torch.device(device)
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        matrix = torch.randn(size, size, device=device).to(dtype)
        seconds = _seconds(lambda m=matrix: m @ m, device)
        found[f"{name}_tflops"] = 2 * size**3 / seconds * 1e-12
    block = torch.zeros(size * size, device=device)
    found["copy_tb_per_s"] = 2 * 4 * size**2 / _seconds(block.clone, device) * 1e-12
    nothing = torch.zeros(1, device=device)
    found["launch_us"] = (
        1e6 * _seconds(lambda: [nothing.add_(1.0) for _ in range(200)], device) / 200
    )
    return found


def _seconds(work, device, repeats=5):
    def now():
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    for _ in range(2):
        work()
    began = now()
    for _ in range(repeats):
        work()
    return (now() - began) / repeats


def cuda_tests(seconds, small):
    """`pytest -m cuda` in the files that have such tests, but what compiles for minutes."""
    files = [
        str(path.relative_to(CLONE))
        for path in sorted((CLONE / "tests").rglob("test_*.py"))
        if "mark.cuda" in path.read_text(encoding="utf-8")
    ]
    if small:
        files = [path for path in files if path.endswith("test_replay.py")]
    words = [sys.executable, "-m", "pytest", "-m", "cuda", "-W", "default",
             "-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "no:randomly",
             "-k", "not fast_settings", "--durations=8", "-rfEs", *files]  # fmt: skip
    try:
        done = subprocess.run(
            words, cwd=CLONE, capture_output=True, text=True, timeout=max(5.0, seconds - 2.0),
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        text = (error.stdout or b"").decode(errors="replace")
        raise RuntimeError(f"not done in time: {text[-300:]}") from None
    print(done.stdout[-20_000:], done.stderr[-2_000:], flush=True)
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)",
                                                     done.stdout.splitlines()[-1])}  # fmt: skip
    if done.returncode not in (0, 5):
        raise RuntimeError(f"pytest ended with {done.returncode}: {counts}")
    return {"counts": counts, "files": files}
