"""No room, no permission, two at once: what was there stays, and each says so in one line."""

import os
import random
import shutil
import tempfile
from pathlib import Path

from saddlescope.runs import RunFolder, read_spectrum
from tests import fresh
from tests.torture.inputs import Bench, FaultError

POWERLESS = """
import ctypes
system = ctypes.CDLL(None)
system.prctl(28, 1)
system.capset((ctypes.c_uint * 2)(0x20080522, 0), (ctypes.c_uint * 6)())
"""
"""Takes from root, and all that it starts, what lets it write where permissions forbid it."""


def _limited(words: list[object], limit: int) -> tuple[int, str]:
    """Run with a bound on the size of files (`ulimit -f`), as if the disk were full."""
    before = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    )
    done = fresh.run("saddlescope", *words, before=before, warm=True)
    # What it says goes to a file too, and of that no more than the bound arrives.
    if "Traceback" in done.stderr or done.returncode not in (0, 1, 3, 4):
        raise FaultError(f"{words[0]} in {limit} bytes: {done.returncode}: {done.stderr[-400:]}")
    return done.returncode, done.stderr


def full_disk(bench: Bench, rng: random.Random) -> str:
    """`spectrum` with files that may not grow: the old ones are as they were."""
    with tempfile.TemporaryDirectory(prefix="torture-room-") as name:
        folder = Path(name) / "run"
        shutil.copytree(bench.run, folder)
        before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        limit = rng.choice((0, 100, 2000, 50_000))
        words = ["spectrum", folder, "--classes", "8", "--groups", "none", "--rtol", "0.5"]
        code, _ = _limited(words, limit)
        for path, content in before.items():
            if code in (1, 4) and path.read_bytes() != content:
                raise FaultError(f"{path.name} was changed on a full disk")
    return "refused" if code in (1, 4) else "accepted"


def read_only(bench: Bench, rng: random.Random) -> str:
    """A folder that cannot be written: one line, and all in it as it was."""
    with tempfile.TemporaryDirectory(prefix="torture-read-only-") as name:
        run = Path(name) / "run"
        shutil.copytree(bench.run, run)
        before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
        for path in (Path(name), run, *run.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        tiny = ("--set", "training.epochs=1", "--set", "training.norms_every=4")
        words = rng.choice(
            (("train", "package:digits-lt", *tiny, "-o", Path(name) / "new"),
             ("train", "package:digits-lt", *tiny, "-o", run, "--resume"),
             ("train", "package:digits-lt", *tiny, "-o", run, "--force"),
             ("spectrum", run, "--classes", "8", "--groups", "none", "--rtol", "0.5"),
             ("spectrum", run, "--classes", "9", "--groups", "none", "-o", Path(name) / "t.csv"),
             ("report", run, "-o", Path(name) / "r.html"), ("demo", "-o", Path(name) / "demo"))
        )  # fmt: skip
        done = fresh.run("saddlescope", *words, before=POWERLESS, warm=True, cwd="/")
        if "Traceback" in done.stderr or done.returncode != 1:
            raise FaultError(f"{words}: {done.returncode}: {done.stderr[-600:]}")
        if before != {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}:
            raise FaultError(f"{words}: something was changed in a folder that is read only")
        for path in (Path(name), run, *run.rglob("*")):
            path.chmod(0o755)
    return "refused"


def _start(*words: object) -> fresh.Fresh:
    return fresh.start("saddlescope", *words, warm=True, OMP_NUM_THREADS="1")


def _wait(process: fresh.Fresh) -> str:
    process.wait()
    return process.stderr


def two_at_once(bench: Bench, rng: random.Random) -> str:
    """Two `spectrum` on one table: the rows of both. Two `train` on one folder: one is refused."""
    with tempfile.TemporaryDirectory(prefix="torture-two-") as name:
        if rng.random() < 0.5:
            table = Path(name) / "t.csv"
            common = ("--groups", "none", "--rtol", "0.5", "-o", table)
            both = [_start("spectrum", bench.run, "--classes", c, *common) for c in ("6-7", "8-9")]
            said = [_wait(process) for process in both]
            if any(process.returncode not in (0, 3) for process in both):
                raise FaultError(f"two on one table: {said}")
            names = sorted(row["name"] for row in read_spectrum(table))
            if names != ["6", "7", "8", "9"]:
                raise FaultError(f"rows were lost: {names}")
        else:
            folder = Path(name) / "run"
            words = ("train", "package:digits-lt", "--set", "training.epochs=2", "-o", folder)
            both = [_start(*words, "--resume") for _ in range(2)]
            said = [_wait(process) for process in both]
            codes = sorted(process.returncode for process in both)
            if codes not in ([0, 0], [0, 2]) or RunFolder(folder).run()["state"] != "finished":
                raise FaultError(f"two on one folder: {codes}: {said}")
        if any("Traceback" in text for text in said):
            raise FaultError(f"two at once: {said}")
        if os.listdir(name) and any(n.endswith("-lock") for n in os.listdir(name)):
            raise FaultError("a lock stayed behind")
    return "accepted"


ROOM = [full_disk, two_at_once, read_only]
