"""Damaged files and command lines: each is accepted, refused with one line, or a fault."""

import io
import json
import pickle
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import typer.main
from PIL import Image
from safetensors.torch import save as serialised
from typer.testing import CliRunner

from saddlescope.cli.main import app
from saddlescope.errors import ExitCode, SaddlescopeError
from saddlescope.longtail.cifar import CIFAR10, load_cifar
from saddlescope.longtail.files import decode
from saddlescope.longtail.lists import read_list
from saddlescope.measurement.job import part_file, write_part
from saddlescope.models import build_model
from saddlescope.reporting import class_table, select_runs, summary_text, write_report
from saddlescope.runs import RunFolder, read_spectrum, read_view, view_file
from saddlescope.theory import place
from saddlescope.training import load_checkpoint, load_plan, restore_run
from saddlescope.training.checkpoints import load_weights, save_checkpoint
from tests.torture.damage import NASTY_TEXT, spoil, spoil_text, spoil_value

RECIPES = Path(__file__).parents[2] / "train"


class FaultError(Exception):
    """What should not have happened."""


@dataclass
class Bench:
    """What trials work with: a finished run, its table with views, a folder of their own.

    Attributes:
        run: a run folder that trials copy.
        work: emptied before each trial.
    """

    run: Path
    work: Path

    @classmethod
    def make(cls, folder: Path) -> "Bench":
        run = folder / "run"
        _command("train", "package:digits-lt", "--set", "training.epochs=1", "-o", str(run),
                 "--set", "training.norms_every=4")  # fmt: skip
        _command("spectrum", str(run), "--classes", "9", "--groups", "none", "--rtol", "0.5",
                 "--with", "trace,slices", "--probes", "2")  # fmt: skip
        (folder / "work").mkdir()
        return cls(run, folder / "work")

    def fresh(self) -> Path:
        shutil.rmtree(self.work)
        self.work.mkdir()
        return self.work


def _command(*words: str) -> None:
    done = CliRunner().invoke(app, list(words))
    if done.exit_code not in (0, 3):
        raise FaultError(f"{words}: {done.output}")


Trial = Callable[[Bench, random.Random], None]


def recipe(bench: Bench, rng: random.Random) -> None:
    """A recipe of the project, spoilt as text or as bytes."""
    source = rng.choice(sorted(RECIPES.glob("*.toml")))
    path = bench.fresh() / "r.toml"
    text = source.read_text().replace('extends = "', f'extends = "{RECIPES}/')
    text = text.replace(f"{RECIPES}/package:", "package:")
    if rng.random() < 0.7:
        path.write_text(spoil_text(text, rng), errors="surrogatepass")
    else:
        path.write_bytes(spoil(text.encode(), rng))
    plan = load_plan(path)
    for run in plan.runs:
        run.to_toml()


def override(bench: Bench, rng: random.Random) -> None:
    """Values that a key of a recipe cannot take, from the command line."""
    keys = ("training.seed", "training.epochs", "optimizer.eta", "optimizer.batch_size",
            "data.tail_threshold", "data.imbalance_factor", "data.few_below", "loss.tau",
            "loss.name",            "method.rho", "method.gamma", "method.name", "model.name",
            "name", "data.name", "x.y.z",
            "loss.reweight_from", "data.train_list", "training.compile")  # fmt: skip
    words = ["train", "package:digits-lt", "--dry-run"]
    for _ in range(rng.randint(1, 3)):
        words += ["--set", f"{rng.choice(keys)}={rng.choice(NASTY_TEXT)}"]
    _line(words)


def checkpoint(bench: Bench, rng: random.Random) -> None:
    """A checkpoint with spoilt bytes: whatever loads holds the weights that were written."""
    clean = bench.run / "checkpoints" / "last.pt"
    path = bench.fresh() / "c.pt"
    path.write_bytes(spoil(clean.read_bytes(), rng))
    _same_weights(load_checkpoint(path)["model"], load_checkpoint(clean)["model"])


def checkpoint_entries(bench: Bench, rng: random.Random) -> None:
    """A checkpoint with a checksum that fits, and entries of which some are wrong."""
    folder = _copy(bench)
    path = folder / "checkpoints" / "last.pt"
    content = spoil_value(load_checkpoint(path), rng)
    save_checkpoint(path, content if isinstance(content, dict) else {"model": content})
    restore_run(RunFolder(folder))


def safetensors(bench: Bench, rng: random.Random) -> None:
    """Weights in the other format, spoilt; without a checksum they need not be the same."""
    path = bench.fresh() / "c.safetensors"
    state = load_checkpoint(bench.run / "checkpoints" / "last.pt")["model"]
    path.write_bytes(spoil(serialised({k: v.contiguous() for k, v in state.items()}), rng))
    model = build_model("resnet8", num_classes=10, in_channels=1, seed=0)
    load_weights(model, load_checkpoint(path), origin="c")


def cifar(bench: Bench, rng: random.Random) -> None:
    """An official folder with one spoilt file."""
    folder = bench.fresh() / CIFAR10.folder
    folder.mkdir()
    names = (*CIFAR10.train_files, CIFAR10.test_file)
    rows = np.zeros((2, 3072), np.uint8)
    for name in names:
        content = {b"data": rows, b"labels": [0, 1], b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(content, protocol=rng.choice((0, 2, 4))))
    meta = {b"label_names": [b"n%d" % n for n in range(10)]}
    (folder / CIFAR10.meta_file).write_bytes(pickle.dumps(meta, protocol=2))
    broken = folder / rng.choice((*names, CIFAR10.meta_file))
    broken.write_bytes(spoil(broken.read_bytes(), rng))
    load_cifar(CIFAR10, folder)


def image_list(bench: Bench, rng: random.Random) -> None:
    """A list file."""
    path = bench.fresh() / "train.txt"
    text = "".join(f"a/{n}.png {n % 3}\n" for n in range(12))
    content = spoil_text(text, rng).encode("utf-8", "surrogatepass")
    path.write_bytes(content if rng.random() < 0.5 else spoil(text.encode(), rng))
    read_list(path, root=bench.work)


def image(bench: Bench, rng: random.Random) -> None:
    """An image file."""
    buffer = io.BytesIO()
    pixels = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    kind = rng.choice(("PNG", "JPEG", "BMP", "WEBP", "PPM"))
    Image.fromarray(pixels).save(buffer, kind)
    path = bench.fresh() / "i"
    path.write_bytes(spoil(buffer.getvalue(), rng))
    decode(path, shrink_to=rng.choice((None, 8)))


def run_folder(bench: Bench, rng: random.Random) -> None:
    """A run folder with a spoilt file, read as a report, a figure and a phase diagram read it."""
    folder = _copy(bench)
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.suffix != ".pt"]
    victim = rng.choice(files)
    if victim.suffix in (".json", ".jsonl") and rng.random() < 0.5:
        lines = victim.read_text().splitlines() if victim.suffix == ".jsonl" else None
        value = spoil_value(json.loads(victim.read_text() if lines is None else lines[0]), rng)
        victim.write_text(json.dumps(value) + "\n")
    else:
        victim.write_bytes(spoil(victim.read_bytes(), rng))
    chosen = select_runs([folder])
    if chosen.runs:
        summary_text(chosen)
        class_table(chosen)
        if rng.random() < 0.003:
            write_report(chosen, bench.work / "r.html")
    place([RunFolder(folder)], skip=lambda _: None)
    command = rng.choice(("phase", "gradients --logged", "theorem6")).split()
    _line(["theory", command[0], str(folder), *command[1:]], may=(0, 2, 4))


def resumed(bench: Bench, rng: random.Random) -> None:
    """A finished run with a spoilt file, resumed: what it says of it is one line."""
    folder = _copy(bench)
    names = ("recipe.toml", "run.json", "metrics.jsonl", "norms.jsonl")
    victim = folder / rng.choice(names)
    victim.write_bytes(spoil(victim.read_bytes(), rng))
    words = ["train", "package:digits-lt", "--set", "training.epochs=1", "-o", str(folder)]
    _line([*words, "--set", "training.norms_every=4", "--resume"], may=(0, 2, 4))


def table(bench: Bench, rng: random.Random) -> None:
    """A spectrum table, or a view of one."""
    folder = _copy(bench)
    path = folder / "spectrum" / "last-train.csv"
    victim = rng.choice((path, view_file(path, "trace"), view_file(path, "slices")))
    text = spoil_text(victim.read_text(), rng).encode("utf-8", "surrogatepass")
    victim.write_bytes(text if rng.random() < 0.6 else spoil(victim.read_bytes(), rng))
    read_spectrum(path) if victim == path else read_view(victim)


def part(bench: Bench, rng: random.Random) -> None:
    """A part file beside a good table: the table is as it was, or has the part's good rows."""
    from saddlescope.measurement import SpectrumJob
    from saddlescope.measurement.settings import Settings

    path = bench.fresh() / "t.csv"
    rows = read_spectrum(bench.run / "spectrum" / "last-train.csv")
    shutil.copy(bench.run / "spectrum" / "last-train.csv", path)
    mark = part_file(path, 1)
    write_part(mark, rows)
    content = json.loads(mark.read_text())
    changed = spoil_value(content, rng) if rng.random() < 0.6 else None
    mark.write_bytes(
        spoil(mark.read_bytes(), rng) if changed is None else json.dumps(changed).encode()
    )
    target = _Nobody(rows[0])
    before = path.read_bytes()
    try:
        SpectrumJob(target=target, subsets=(), settings=Settings(), path=path).finished()
    except SaddlescopeError:
        if path.read_bytes() != before or not mark.exists():
            raise FaultError("a table was changed by a part file that was refused") from None
        raise
    read_spectrum(path)


class _Nobody:
    """A target of which only the identity is asked for."""

    def __init__(self, row: dict[str, object]) -> None:
        self.identity = {key: row[key] for key in ("run", "checkpoint", "split", "digest")}


def foreign_folder(bench: Bench, rng: random.Random) -> None:
    """A folder of somebody's: `train --force` leaves all that it has not written."""
    folder = bench.fresh() / "project"
    if rng.random() < 0.5:
        shutil.copytree(bench.run, folder)
    names = rng.sample(
        ("data/a", "src/b", "recipe.toml", "spectrum/2024", "checkpoints/x.pt", "run.json", "0/c",
         "metrics.jsonl", "notes", ".git/HEAD", "spectrum/config.json", "tensorboard/y"), 3,
    )  # fmt: skip
    ours = {str(p.relative_to(folder)) for p in folder.rglob("*")} if folder.is_dir() else set()
    for name in names:
        if name not in ours:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("precious")
    precious = [name for name in names if name not in ours]
    words = ["train", "package:digits-lt", "--set", "training.epochs=1", "--set",
             "optimizer.eta=1e30", "-o", str(folder)]  # fmt: skip
    words.append(rng.choice(("--force", "--resume")))
    try:
        _line(words, may=(0, 1, 2, 4))
    finally:
        for name in precious:
            if (folder / name).read_text() != "precious":
                raise FaultError(f"{name} is gone, or another's")


def command_line(bench: Bench, rng: random.Random) -> None:
    """Options with values that cannot be meant; nothing is computed for long."""
    commands = [(n, c) for n, c in _commands(typer.main.get_command(app)) if n[0] != "demo"]
    name, command = rng.choice(commands)
    words = [*name]
    places = (str(bench.run), str(bench.work / "no"), *NASTY_TEXT[:12])
    words += [
        rng.choice(places)
        for parameter in command.params
        if parameter.param_type_name == "argument" and rng.random() < 0.9
    ]
    options = [p for p in command.params if p.param_type_name == "option" and p.opts[0] != "--help"]
    for option in rng.sample(options, min(len(options), rng.randint(1, 3))):
        if option.opts[0].startswith(("--install", "--show")):
            continue
        words.append(option.opts[0])
        if not option.is_flag:
            words.append(rng.choice(NASTY_TEXT))
    # What would be computed in earnest if the rest is accepted is made small, or not begun.
    known = {opt for option in options for opt in option.opts}
    for limit in (("--dry-run",), ("--trials", "3"), ("--time-limit", "0"), ("--threads", "1")):
        if limit[0] in known and limit[0] not in words:
            words += limit
    if "--dry-run" not in known and name[0] not in ("report", "data", "figure"):
        words += ["--no-such-option"] if rng.random() < 0.9 else ["--help"]
    if {"--output"} <= known:
        words += ["-o", str(bench.fresh() / "out.csv")]
    _line(words, may=(0, 1, 2, 3, 4))


def _commands(
    command: object, name: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    children = getattr(command, "commands", {})
    if not children:
        yield name, command
    for key, child in children.items():
        yield from _commands(child, (*name, key))


def _line(words: list[str], may: tuple[int, ...] = (0, 2, 4)) -> None:
    """Run a command line; a refusal is a line and an exit code that fits."""
    done = CliRunner().invoke(app, words)
    raised = done.exception
    if raised is not None and not isinstance(raised, SystemExit):
        raise FaultError(f"{words}: {type(raised).__name__}: {raised}") from raised
    if done.exit_code not in may:
        raise FaultError(f"{words}: exit code {done.exit_code}: {done.stderr[-300:]}")
    if "\x1b" in done.stderr:
        raise FaultError(f"{words}: an escape sequence came through")
    if done.exit_code:
        raise _RefusedError(ExitCode(done.exit_code).name)


class _RefusedError(SaddlescopeError):
    """A command line ended with an exit code that fits."""


def _copy(bench: Bench) -> Path:
    folder = bench.fresh() / "copy"
    shutil.copytree(bench.run, folder)
    return folder


def _same_weights(found: object, written: dict[str, torch.Tensor]) -> None:
    if not isinstance(found, dict) or found.keys() != written.keys():
        raise FaultError("a damaged checkpoint was loaded with other entries")
    if not all(torch.equal(found[key], written[key]) for key in written):
        raise FaultError("a damaged checkpoint was loaded with other weights")


INPUTS: dict[str, tuple[Trial, int]] = {
    "recipe": (recipe, 12), "override": (override, 4), "checkpoint": (checkpoint, 12),
    "checkpoint entries": (checkpoint_entries, 2), "safetensors": (safetensors, 4),
    "cifar": (cifar, 12), "list": (image_list, 8), "image": (image, 12),
    "run folder": (run_folder, 6), "resumed": (resumed, 2),    "table": (table, 8),
    "part": (part, 8),
    "foreign folder": (foreign_folder, 1),
    "command line": (command_line, 3),
}  # fmt: skip
"""Trial and how often, by name."""


def attempt(trial: Trial, bench: Bench, rng: random.Random) -> str:
    """Make a trial and say "accepted", "refused", or what went wrong."""
    try:
        trial(bench, rng)
    except SaddlescopeError as error:
        text = str(error)
        if len(text) > 2000:
            return f"a refusal of {len(text)} characters: {text[:200]}"
        return "refused"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        return f"{type(error).__name__}: {str(error)[:300]} ({where})"
    return "accepted"
