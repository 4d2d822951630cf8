"""No room, no permission, two at once: what was there stays, and each says so in one line."""

import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from saddlescope.runs import RunFolder, read_spectrum
from tests.torture.inputs import Bench, FaultError
from tests.torture.kills import begin


def _limited(bench: Bench, words: list[object], limit: int) -> tuple[int, str]:
    """Run with a bound on the size of files (`ulimit -f`), as if the disk were full."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code = (
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "from saddlescope.cli.main import run; run()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, words)],
        capture_output=True, text=True, check=False, preexec_fn=bound, timeout=600,
    )  # fmt: skip
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
        code, _ = _limited(bench, words, limit)
        for path, content in before.items():
            if code in (1, 4) and path.read_bytes() != content:
                raise FaultError(f"{path.name} was changed on a full disk")
    return "refused" if code in (1, 4) else "accepted"


def read_only(bench: Bench, rng: random.Random) -> str:
    """A place that cannot be written: /proc, which not even root can write to."""
    words = rng.choice(
        (["train", "package:digits-lt", "--set", "training.epochs=1", "-o", "/proc/run"],
         ["spectrum", bench.run, "--classes", "9", "--groups", "none", "-o", "/proc/t.csv"],
         ["report", bench.run, "-o", "/proc/r.html"])
    )  # fmt: skip
    process = begin(*words)
    _, said = process.communicate(timeout=600)
    if "Traceback" in said or process.returncode != 1:
        raise FaultError(f"{words}: {process.returncode}: {said[-400:]}")
    return "refused"


def two_at_once(bench: Bench, rng: random.Random) -> str:
    """Two `spectrum` on one table: the rows of both. Two `train` on one folder: one is refused."""
    with tempfile.TemporaryDirectory(prefix="torture-two-") as name:
        if rng.random() < 0.5:
            table = Path(name) / "t.csv"
            common = ("--groups", "none", "--rtol", "0.5", "-o", table)
            both = [begin("spectrum", bench.run, "--classes", c, *common) for c in ("6-7", "8-9")]
            said = [process.communicate(timeout=600)[1] for process in both]
            if any(process.returncode not in (0, 3) for process in both):
                raise FaultError(f"two on one table: {said}")
            names = sorted(row["name"] for row in read_spectrum(table))
            if names != ["6", "7", "8", "9"]:
                raise FaultError(f"rows were lost: {names}")
        else:
            folder = Path(name) / "run"
            words = ("train", "package:digits-lt", "--set", "training.epochs=2", "-o", folder)
            both = [begin(*words, "--resume") for _ in range(2)]
            said = [process.communicate(timeout=600)[1] for process in both]
            codes = sorted(process.returncode for process in both)
            if codes not in ([0, 0], [0, 2]) or RunFolder(folder).run()["state"] != "finished":
                raise FaultError(f"two on one folder: {codes}: {said}")
        if any("Traceback" in text for text in said):
            raise FaultError(f"two at once: {said}")
        if os.listdir(name) and any(n.endswith("-lock") for n in os.listdir(name)):
            raise FaultError("a lock stayed behind")
    return "accepted"


ROOM = [full_disk, two_at_once, read_only]
