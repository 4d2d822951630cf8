"""Real processes, ended at a random moment and started again, end as an unbroken one does."""

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from saddlescope.runs import RunFolder, read_rows, read_spectrum
from saddlescope.training import load_checkpoint
from tests.torture.inputs import Bench, FaultError

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENDS = {0, 3, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}
"""Exit codes of what was told to end: before Python has begun to listen, the signal's own."""

SHORT = ("--set", "training.epochs=3", "--set", "method.name=sse-sam", "--set", "method.gamma=0.5")
SWEEP = """
extends = "package:digits-lt"
name = "s"
[training]
epochs = 2
[[sweep]]
"training.seed" = [0, 1]
"""


def begin(*words: object) -> "subprocess.Popen[str]":
    """Start the command in a group of its own, as a terminal or a job queue would."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "saddlescope", *map(str, words)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(*words: object) -> None:
    """Run to the end, which must be a good one."""
    process = begin(*words)
    _, said = process.communicate(timeout=600)
    if process.returncode not in (0, 3) or "Traceback" in said:
        raise FaultError(f"{words[0]}: {process.returncode}: {said[-400:]}")


@functools.cache
def whole(kind: str, place: Path) -> tuple[Path, float]:
    """An unbroken one, and how long it took."""
    folder = place / f"whole-{kind}"
    folder.mkdir()
    if kind == "sweep":
        (folder / "s.toml").write_text(SWEEP)
    began = time.monotonic()
    finish(*words_of(kind, folder))
    return folder, time.monotonic() - began


def words_of(kind: str, folder: Path) -> tuple[object, ...]:
    if kind == "train":
        return "train", "package:digits-lt", *SHORT, "-o", folder / "run", "--resume"
    if kind == "sweep":
        return "train", folder / "s.toml", "-o", folder / "out", "--jobs", "2"
    return "demo", "-o", folder / "demo", "--jobs", "2", "--set", "training.epochs=1"


def cut(rng: random.Random, words: tuple[object, ...], seconds: float) -> None:
    """Start, wait a random while, end it; what it says on the way is no traceback."""
    process, number = begin(*words), rng.choice(SIGNALS)
    try:
        process.communicate(timeout=rng.uniform(0.0, 1.1 * seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    _, said = process.communicate(timeout=600)
    if process.returncode not in ENDS:
        raise FaultError(f"{words[0]} after signal {number}: {process.returncode}: {said[-400:]}")
    if "Traceback" in said and "KeyboardInterrupt" not in said:
        raise FaultError(f"{words[0]} after signal {number}: {said[-400:]}")


def same_run(one: Path, two: Path) -> None:
    for which in ("last", "best"):
        left, right = (load_checkpoint(RunFolder(p).checkpoint(which))["model"] for p in (one, two))
        if not all(torch.equal(left[key], right[key]) for key in left):
            raise FaultError(f"{which}.pt has other weights than without a kill")
    timed = ("seconds", "images_per_s")
    rows = [
        [
            {k: v for k, v in row.items() if k not in timed}
            for row in read_rows(RunFolder(p).metrics_file)
        ]
        for p in (one, two)
    ]
    if rows[0] != rows[1]:
        raise FaultError("metrics.jsonl differs from that without a kill")
    left = [p for p in two.rglob("*") if p.name.endswith((".tmp", "saddlescope-lock"))]
    if left:
        raise FaultError(f"left behind: {left[0].name}")


def _killed(kind: str, bench: Bench, rng: random.Random, runs: str) -> str:
    reference, seconds = whole(kind, bench.work.parent)
    with tempfile.TemporaryDirectory(prefix="torture-kill-") as name:
        folder = Path(name)
        if kind == "sweep":
            (folder / "s.toml").write_text(SWEEP)
        for _ in range(rng.randint(1, 3)):
            cut(rng, words_of(kind, folder), seconds)
        finish(*words_of(kind, folder))
        for run in sorted(reference.glob(runs)):
            same_run(run, folder / run.relative_to(reference))
    return "resumed"


def train(bench: Bench, rng: random.Random) -> str:
    """`train`, killed up to three times."""
    return _killed("train", bench, rng, "run")


def sweep(bench: Bench, rng: random.Random) -> str:
    """A sweep of two runs side by side."""
    return _killed("sweep", bench, rng, "out/s-*")


def demo(bench: Bench, rng: random.Random) -> str:
    """The demo."""
    return _killed("demo", bench, rng, "demo/digits-lt-*")


def spectrum(bench: Bench, rng: random.Random) -> str:
    """`spectrum` of a few classes: the table is the same to the byte."""
    words = ("--classes", "6-9", "--groups", "tail", "--rtol", "0.3", "--device", "cpu")
    reference = bench.work.parent / "whole.csv"
    began = time.monotonic()
    if not reference.exists():
        finish("spectrum", bench.run, *words, "-o", reference)
    with tempfile.TemporaryDirectory(prefix="torture-kill-") as name:
        table = Path(name) / "whole.csv"
        for _ in range(rng.randint(1, 2)):
            cut(
                rng,
                ("spectrum", bench.run, *words, "-o", table),
                max(4.0, time.monotonic() - began),
            )
        finish("spectrum", bench.run, *words, "-o", table)
        if read_spectrum(table) != read_spectrum(reference):
            raise FaultError("the table differs from that without a kill")
    return "resumed"


def report(bench: Bench, rng: random.Random) -> str:
    """`report`: the file is the old one or the new one, never a half."""
    with tempfile.TemporaryDirectory(prefix="torture-kill-") as name:
        html = Path(name) / "r.html"
        words = ("report", bench.run, "-o", html)
        finish(*words)
        before = html.read_bytes()
        cut(rng, words, 6.0)
        if html.read_bytes() != before:
            raise FaultError("a killed report left another file")
        if shutil.disk_usage(name).free == 0:
            raise FaultError("the disk is full")
    return "resumed"


KILLS = [train, spectrum, train, report, sweep, train, demo, spectrum]
