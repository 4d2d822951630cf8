"""Real commands, killed again and again on their way, end as unbroken ones do.

A command is started, ended at a random moment and started again until it comes to its end; what it
has then left is compared to the bit with what an unbroken one leaves. The moment is one of time,
over all that the command takes from its first import on, or one of the files: just before it opens,
renames or removes its so-manieth.
"""

import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from saddlescope.errors import ExitCode
from saddlescope.runs import RunFolder, read_rows, read_spectrum
from saddlescope.training import load_checkpoint
from tests import fresh
from tests.torture.inputs import Bench, FaultError

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
DONE = (ExitCode.OK, ExitCode.NOT_CONVERGED)
SECONDS = 900.0
"""For anything that should end: nothing here takes that long, on whatever machine."""

TINY = ("data.imbalance_factor=100", "optimizer.batch_size=64", "training.norms_every=4")
SWEEP = """
extends = "package:digits-lt"
name = "s"
[training]
epochs = 2
[[sweep]]
"method.name" = ["sam-ext", "sse-sam"]
"""

# In a session of its own, as a terminal or a job queue starts it. Counts what it does to the files
# below a folder, sends itself a signal before a certain one, and says at the end how many it were.
BEFORE = """
import atexit, os, sys
os.setsid()
me = os.getpid()
EVENTS, seen = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"), []
def look(event, arguments):
    if event in EVENTS and {folder!r} in str(arguments[0]) and os.getpid() == me:
        seen.append(event)
        if len(seen) == {number}:
            os.kill(os.getpid(), {signal})
sys.addaudithook(look)
atexit.register(lambda: os.write(os.open({said!r}, os.O_CREAT | os.O_WRONLY), b"%d" % len(seen)))
"""

# A clock that somebody sets while the command runs: forth and back by decades, before 1970 too.
CLOCK = """
import datetime, random, time
real, dice = time.time, random.Random()
class Jumping(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
datetime.datetime = Jumping
time.time = lambda: real() + dice.choice((0, -60, 3600, -1e9, 1e9, -3e9, 4e9))
"""


@dataclass(frozen=True)
class Command:
    """A command to be killed.

    Attributes:
        words: of it, by the bench's run and the folder that it works in.
        compare: the folders of an unbroken one and of one that was killed; raises `FaultError`.
        warm: how often it is spared its imports, in [0, 1].
        clock: whether its clock jumps, and the times of its files.
    """

    words: Callable[[Path, Path], tuple[object, ...]]
    compare: Callable[[Path, Path], None]
    warm: float = 0.7
    clock: bool = False


@dataclass(frozen=True)
class Whole:
    """An unbroken one: where, how long it took, how many files it opened, renamed or removed."""

    folder: Path
    seconds: float
    events: int


def _start(
    command: Command, bench: Bench, folder: Path, rng: random.Random, number: int, sign: int
) -> fresh.Fresh:
    said = folder.parent / "events"
    before = BEFORE.format(folder=str(folder), number=number, signal=int(sign), said=str(said))
    return fresh.start(
        "saddlescope", *command.words(bench.run, folder), before=before + CLOCK * command.clock,
        warm=rng.random() < command.warm, cwd=folder.parent, OMP_NUM_THREADS="1",
    )  # fmt: skip


def _finish(command: Command, bench: Bench, folder: Path, rng: random.Random) -> None:
    """Run to the end, which must be a good one."""
    process = _start(command, bench, folder, rng, 0, 0)
    if process.wait(SECONDS) not in DONE or "Traceback" in process.stderr:
        raise FaultError(f"{process.returncode} at the end: {process.stderr[-600:]}")


WHOLE: dict[tuple[Path, str], Whole] = {}


def _whole(name: str, command: Command, bench: Bench, rng: random.Random) -> Whole:
    if (bench.run, name) not in WHOLE:
        folder = bench.work.parent / f"whole-{name}" / "at"
        shutil.rmtree(folder.parent, ignore_errors=True)  # of one that did not come to its end
        folder.mkdir(parents=True)
        for warm in {command.warm > 0, command.warm == 1}:  # the servers begin: none of its time
            fresh.run("saddlescope", "--version", warm=warm)
        began = time.monotonic()
        _finish(command, bench, folder, rng)
        events = int((folder.parent / "events").read_text())
        WHOLE[bench.run, name] = Whole(folder, time.monotonic() - began, events)
    return WHOLE[bench.run, name]


def _cut(
    command: Command, bench: Bench, folder: Path, rng: random.Random, whole: Whole
) -> str | None:
    """Start and end it at a random moment; the signal's name, or None if it was done before that.

    What it says on the way is no traceback of ours, and whatever it has started ends with it.
    """
    sign = rng.choice(SIGNALS)
    by_file = rng.random() < 0.5
    # Early ones more often: whoever is killed early comes to be killed again later on the way.
    share = rng.random() ** 2
    number = 1 + int(share * whole.events) if by_file else 0
    process = _start(command, bench, folder, rng, number, sign)
    begun, until = set[int](), time.monotonic() + share * whole.seconds
    while process.poll() is None and (by_file or time.monotonic() < until):
        begun |= set(below(process.pid))
        process.server.listen(0.05)
    sent = not by_file and process.poll() is None
    if sent:
        begun |= set(below(process.pid))
        # Ctrl-C comes to all that the terminal has started, in its session.
        everyone = sign == signal.SIGINT and rng.random() < 0.5
        try:
            (os.killpg if everyone else os.kill)(process.pid, sign)
        except ProcessLookupError:  # it has no session yet
            process.send_signal(sign)
    code, where = process.wait(SECONDS), f"{sign.name} {number or 'by time'}"
    if code not in {*DONE, ExitCode.INTERRUPTED, -sign}:
        raise FaultError(f"{where}: {code}: {process.stderr[-600:]}")
    if "Traceback" in process.stderr and f"{os.sep}saddlescope{os.sep}" in process.stderr:
        raise FaultError(f"{where}: {process.stderr[-1500:]}")
    until = time.monotonic() + SECONDS
    while left := [one for one in begun if not is_gone(one)]:
        if time.monotonic() > until:
            raise FaultError(f"{where}: outlived by {left}")
        time.sleep(0.05)
    return sign.name if sent or code not in DONE else None


def killed(
    name: str, command: Command, bench: Bench, rng: random.Random, *, most: int = 12
) -> list[str]:
    """Kill a command on its way until it comes to its end; the signals that it was killed by."""
    whole = _whole(name, command, bench, rng)
    with tempfile.TemporaryDirectory(prefix="torture-kill-") as place:
        folder = Path(place) / "at"
        folder.mkdir()
        names = []
        while len(names) < most and (sign := _cut(command, bench, folder, rng, whole)):
            names.append(sign)
            for path in folder.rglob("*") if command.clock else ():
                os.utime(path, (rng.uniform(-3e9, 6e9),) * 2)
        _finish(command, bench, folder, rng)
        command.compare(whole.folder, folder)
        if left := [p for p in folder.rglob("*") if p.name.endswith("saddlescope-lock")]:
            raise FaultError(f"left behind: {left[0].name}")
    return names


def below(process: int) -> Iterator[int]:
    """Numbers of the processes that a process has started, and those that they have started."""
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                yield child
                yield from below(child)


def is_gone(process: int) -> bool:
    """Whether a process has ended, if only its parent has not been told."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def same_run(one: Path, two: Path) -> None:
    """Compare two run folders: weights, logs, state, and nothing that does not belong there."""
    names = [sorted(str(p.relative_to(at)) for p in at.rglob("*")) for at in (one, two)]
    if names[0] != names[1]:
        raise FaultError(f"other files: {set(names[0]) ^ set(names[1])}")
    for path in sorted(one.glob("checkpoints/*.pt")):
        left, right = (load_checkpoint(at / "checkpoints" / path.name) for at in (one, two))
        if not same(left | {"seconds": 0}, right | {"seconds": 0}):
            raise FaultError(f"{path.name} differs from that without a kill")
    timed = ("seconds", "images_per_s")
    for path in sorted(one.glob("*.jsonl")):
        left, right = (
            [{k: v for k, v in row.items() if k not in timed} for row in read_rows(at / path.name)]
            for at in (one, two)
        )
        if left != right:
            raise FaultError(f"{path.name} differs from that without a kill")
    if RunFolder(two).run()["state"] != "finished":
        raise FaultError("the run does not say that it is finished")


def same(one: object, two: object) -> bool:
    """Whether two contents of checkpoints are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(
            same(one[key], two[key]) for key in one
        )  # fmt: skip
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two or one != one


def _same_runs(runs: str) -> Callable[[Path, Path], None]:
    def compare(one: Path, two: Path) -> None:
        for run in sorted(one.glob(runs)):
            same_run(run, two / run.relative_to(one))
            same_tables(run, two / run.relative_to(one))

    return compare


def same_tables(one: Path, two: Path) -> None:
    """Compare the spectrum tables in two folders, and the views to the byte."""
    for path in sorted(one.rglob("*.csv")):
        other = two / path.relative_to(one)
        if ".views" in str(path):
            equal = path.read_bytes() == other.read_bytes()
        else:
            equal = read_spectrum(path) == read_spectrum(other)
        if not equal:
            raise FaultError(f"{path.name} differs from that without a kill")


def same_report(one: Path, two: Path) -> None:
    """Compare two reports to the byte."""
    if (one / "r.html").read_bytes() != (two / "r.html").read_bytes():
        raise FaultError("the report differs from that without a kill")


def _set(*overrides: str) -> tuple[str, ...]:
    return tuple(word for override in overrides for word in ("--set", override))


def _sweep(_: Path, folder: Path) -> tuple[object, ...]:
    recipe = folder.parent / "s.toml"
    recipe.write_text(SWEEP)
    return "train", recipe, *_set(*TINY), "-o", folder, "--jobs", "2"


def _train(*overrides: str) -> Command:
    words = ("train", "package:digits-lt", *_set(*TINY, *overrides), "--resume")
    return Command(lambda _, folder: (*words, "-o", folder / "run"), _same_runs("run"))


STAGES = _train("training.epochs=2", "method.name=sse-sam", "method.gamma=0.5")
COMMANDS: dict[str, tuple[Command, int]] = {
    "train": (STAGES, 40), "train, clock": (replace(STAGES, warm=0.0, clock=True), 10),
    "train, keeping": (
        _train("training.epochs=3", "training.checkpoint_every=1", "training.losses_every=2"), 20,
    ),
    "spectrum": (
        Command(
            lambda run, folder: (
                "spectrum", run, "--classes", "7-9", "--groups", "none", "--rtol", "0.5",
                "--with", "trace", "--probes", "2", "--device", "cpu", "-o", folder / "t.csv",
            ),
            same_tables,
        ), 30,
    ),
    "report": (
        Command(lambda run, folder: ("report", run, "-o", folder / "r.html"), same_report), 12,
    ),
    "sweep": (Command(_sweep, _same_runs("s-*")), 4),
    "demo": (
        Command(
            lambda _, folder: (
                "demo", "-o", folder, "--jobs", "2",
                *_set(*TINY, "training.epochs=1", "model.name=two-layer-linear"),
            ),
            _same_runs("digits-lt-*"),
        ), 2,
    ),
}  # fmt: skip
"""What is killed, and how often, by name."""
