"""`saddlescope train` of a recipe that describes many runs: each in a process of its own."""

import functools
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from saddlescope.cli.console import print_path, say, stop_on_signal
from saddlescope.errors import Interrupted, SaddlescopeError, UsageError
from saddlescope.parallel import launch
from saddlescope.runs import count_lines, csv_text, own_process, to_json
from saddlescope.stages import Stage

if TYPE_CHECKING:
    from saddlescope.longtail import LongTailData
    from saddlescope.runs import RunFolder
    from saddlescope.training import Recipe
    from saddlescope.training.recipe import DataSection

_LOOK_EVERY = 0.2
"""Seconds between two looks at the processes."""


@dataclass
class _Child:
    """A run under way."""

    folder: "RunFolder"
    process: "subprocess.Popen[bytes]"
    log: Path
    slot: int


def refuse_of_a_sweep(
    *, resume: bool, force: bool, monitor: str | None, branch: Path | None
) -> None:
    """Refuse options that are for a single run.

    Raises:
        UsageError: one of them was given.
    """
    single = (
        ("--force", force), ("--monitor", monitor is not None), ("--branch", branch is not None)
    )  # fmt: skip
    for name, given in single:
        if given:
            raise UsageError(
                f"{name} is for a single run, and this recipe is a sweep: choose one with --only"
            )
    if resume:
        say("a sweep always goes on with what is there; --resume changes nothing")


def refuse_of_a_run(*, jobs: int, shard: str) -> None:
    """Refuse options that are for a sweep, where each of four machines would train the same run.

    Raises:
        UsageError: one of them was given.
    """
    for name, given in (("--jobs", jobs != 1), ("--shard", shard != "1/1")):
        if given:
            raise UsageError(f"{name} is for a recipe with [[sweep]] blocks, and this is one run")


def sweep_arguments(
    recipe: str, overrides: Sequence[str] | None, options: Mapping[str, object]
) -> list[str]:
    """Arguments of `saddlescope` that all runs of a sweep have in common.

    Args:
        recipe: of the sweep.
        overrides: of all runs.
        options: by name; None where not given, True of one without a value.
    """
    words = ["train", recipe]
    for override in overrides or ():
        words += ["--set", override]
    for option, value in options.items():
        if value is not None:
            words += [option] if value is True else [option, str(value)]
    return words


def run_words(folder: "RunFolder", device: str) -> list[str]:
    """Arguments of `saddlescope train` that are one run's own, after those of its sweep."""
    return ["--only", folder.name, "-o", str(folder.path), "--resume", "--device", device]


def unfinished(
    recipes: "Sequence[Recipe]",
    output: Path,
    load: "Callable[[DataSection], LongTailData] | None" = None,
) -> "list[RunFolder]":
    """Return the folders of the runs that are not finished, in order.

    Args:
        recipes: of the runs.
        output: folder of their folders.
        load: reads the data that a recipe names, to which finished runs are held; None does not.

    Raises:
        UsageError: a folder holds a run of another recipe, or a launcher started this process.
        DataError: a finished run was trained on other data.
    """
    from saddlescope.runs import RunFolder

    if launch() is not None:
        raise UsageError(
            "a sweep starts processes of its own: under torchrun choose a run with --only"
        )
    read = functools.cache(load) if load else None
    folders = {recipe.run_name: RunFolder(output / recipe.run_name) for recipe in recipes}
    return [folders[r.run_name] for r in recipes if not _finished(folders[r.run_name], r, read)]


def say_plan(
    recipes: "Sequence[Recipe]", output: Path, *, data_root: Path | None, json: bool
) -> None:
    """Print what a sweep will take, a line a run and the sum; nothing is computed."""
    from saddlescope.training import estimate, trunk_of

    total = {"epochs": 0, "steps": 0, "gradients": 0.0, "disk": 0}
    rows = []
    for index, recipe in enumerate(recipes):
        _, shared = trunk_of(index, tuple(recipes))
        found = estimate(recipe, begun=shared, data_root=data_root)
        rows.append(
            {
                "run": recipe.run_name,
                "epochs": recipe.training.epochs - shared,
                "images": found.images,
                "steps": found.steps,
                "gradients": round(found.gradients, 1),
                "disk_mib": round(found.disk / 2**20, 1),
            }
        )
        total["epochs"] += recipe.training.epochs - shared
        total["steps"] += found.steps
        total["gradients"] += found.gradients
        total["disk"] += found.disk
    columns = ("run", "epochs", "images", "steps", "gradients", "disk_mib")
    typer.echo(to_json(rows, indent=2) if json else csv_text(rows, columns), nl=json)
    say(
        f"{len(recipes)} runs, {total['epochs']} epochs, {total['steps']} steps, "
        f"{total['gradients']:.0f} gradients of all training images, "
        f"{total['disk'] / 2**30:.2f} GiB of checkpoints; would write {output}"
    )


def run_sweep(
    recipes: "Sequence[Recipe]",
    output: Path,
    *,
    arguments: Sequence[str],
    jobs: int,
    devices: Sequence[str],
    load: "Callable[[DataSection], LongTailData]",
) -> None:
    """Run what is missing, several at a time; finished runs are left as they are.

    Args:
        recipes: of the runs.
        output: folder of their folders, and of `logs/`, one file a run.
        arguments: of `saddlescope train`, up to the options that differ from run to run.
        jobs: processes at a time.
        devices: handed out in turn.
        load: reads the data that a recipe names.

    Raises:
        UsageError: a folder holds a run of another recipe.
        DataError: one holds a finished run on other data.
        Interrupted: after a signal; the runs under way have saved their states.
        SaddlescopeError: runs failed; the others are finished.
    """
    from saddlescope.runs import RunFolder

    folders = {recipe.run_name: RunFolder(output / recipe.run_name) for recipe in recipes}
    waiting = unfinished(recipes, output, load)
    done = len(recipes) - len(waiting)
    say(f"{len(recipes)} runs: {done} finished, {len(waiting)} to do, {jobs} at a time")
    trunks = _trunks(recipes, folders)
    epochs = {recipe.run_name: recipe.training.epochs for recipe in recipes}
    (output / "logs").mkdir(parents=True, exist_ok=True)
    children: list[_Child] = []
    failed: list[str] = []
    with stop_on_signal() as should_stop, Stage(output.name) as stage:
        while waiting or children:
            if should_stop():
                _stop(children)
                raise Interrupted(f"{output}: stopped and saved; the same command goes on")
            while len(children) < jobs and (folder := _next(waiting, children, trunks)):
                slot = min(set(range(jobs)) - {child.slot for child in children})
                waiting.remove(folder)
                words = run_words(folder, devices[slot % len(devices)])
                children.append(_start(folder, [*arguments, *words], output, slot, jobs))
            time.sleep(_LOOK_EVERY)
            for child in [c for c in children if c.process.poll() is not None]:
                children.remove(child)
                if child.process.returncode == 0:
                    done += 1
                    say(f"{child.folder.name}: finished")
                else:
                    failed.append(child.folder.name)
                    say(f"{child.folder.name}: failed, see {child.log}: {_last_line(child.log)}")
            so_far = sum(count_lines(folder.metrics_file) for folder in folders.values())
            text = f"{done} of {len(recipes)} runs finished, {len(failed)} failed"
            stage.update(so_far / sum(epochs.values()), functools.partial(str, text))
    for name, folder in folders.items():
        if name not in failed:
            print_path(folder.path)
    if failed:
        raise SaddlescopeError(f"{len(failed)} of {len(recipes)} runs failed: {', '.join(failed)}")


def _trunks(
    recipes: "Sequence[Recipe]", folders: "Mapping[str, RunFolder]"
) -> "dict[RunFolder, tuple[RunFolder, Path]]":
    """By run the one it goes on from, and the checkpoint that has to be there for it."""
    from saddlescope.training import trunk_of

    found = {}
    for index, recipe in enumerate(recipes):
        trunk, epochs = trunk_of(index, tuple(recipes))
        if trunk >= 0:
            folder = folders[recipes[trunk].run_name]
            found[folders[recipe.run_name]] = (folder, folder.checkpoint(str(epochs - 1)))
    return found


def _next(
    waiting: "Sequence[RunFolder]",
    children: Sequence[_Child],
    trunks: "Mapping[RunFolder, tuple[RunFolder, Path]]",
) -> "RunFolder | None":
    """The first run that need not wait for the one it goes on from."""
    busy = {child.folder for child in children} | set(waiting)
    for folder in waiting:
        trunk, checkpoint = trunks.get(folder, (None, None))
        if trunk not in busy or (checkpoint is not None and checkpoint.is_file()):
            return folder
    return None


def _finished(
    folder: "RunFolder",
    recipe: "Recipe",
    load: "Callable[[DataSection], LongTailData] | None",
) -> bool:
    from saddlescope.training import first_difference, parse_recipe
    from saddlescope.training.record import refuse_changed

    if not folder.exists():
        return False
    there = parse_recipe(folder.recipe(), origin=str(folder.recipe_file))
    if there != recipe:
        raise UsageError(
            f"{folder.path}: holds a run of another recipe ({first_difference(there, recipe)}); "
            "choose another folder with -o"
        )
    done = folder.run_file.is_file() and folder.run().get("state") == "finished"
    if done and load is not None:
        refuse_changed(folder, recipe, load(recipe.data))
    return done


def _start(folder: "RunFolder", arguments: list[str], output: Path, slot: int, jobs: int) -> _Child:
    log = output / "logs" / f"{folder.name}.log"
    # Processes side by side share the cores. Not by --threads, which would also be taken where one
    # thread is faster than several.
    share = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {"OMP_NUM_THREADS": share, **os.environ}
    with open(log, "ab") as handle:
        # In a process group of its own: Ctrl-C comes to this process, which passes it on once.
        process = subprocess.Popen(
            own_process("saddlescope", arguments), stdin=subprocess.DEVNULL, stdout=handle,
            stderr=handle, env=environment, start_new_session=True,
        )  # fmt: skip
    return _Child(folder, process, log, slot)


def _stop(children: list[_Child]) -> None:
    """Let every child save its state and end."""
    for child in children:
        child.process.terminate()
    for child in children:
        child.process.wait()


def _last_line(path: Path) -> str:
    with open(path, "rb") as handle:
        handle.seek(max(0, path.stat().st_size - 100_000))
        lines = handle.read().decode("utf-8", "replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "no word")
    return "".join(letter if letter.isprintable() else " " for letter in last)
