"""The study of docs/study.md: train, measure and keep what is missing of it.

    python analysis/study.py --data-root FOLDER [--runs runs/study] [--jobs 2]

Every step goes on where it was cut: the same command, again, does what is missing. Finished runs
are kept in analysis/study, one folder each, with everything but the checkpoints of their way:
recipe, logs, tables, and the weights of the last epoch, so that anybody can measure the networks
without training them: `--only measure` does what is missing of them too, and a kept run is not
trained again. What they say is then written down by study_results.py.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from saddlescope.runs import RunFolder, find_runs, write_bytes, write_json

HERE = Path(__file__).parent
RECIPE = HERE.parent / "train" / "study.toml"
KEPT = HERE / "study"
ALONG = ("5", "17", "29", "41", "53")
"""Checkpoints measured along the way; 41 is the last before the switch."""

LOGS = ("recipe_file", "metrics_file", "norms_file", "losses_file")


def commands(run: RunFolder, data_root: str) -> Iterator[list[str]]:
    """Yield the measurements of a run, what decides the hypotheses first."""
    always = ["spectrum", str(run.path), "--data-root", data_root, "--threads", "1"]
    rows = ["--groups", "tail", "--classes", "4,7,9"]
    small = [*rows[:-1], "7,9"]
    seed = int(run.run()["seed"])
    if seed == 1:
        yield [*always, *small, "--with", "split,slices", "--radius", "0.2"]
    yield [*always, *rows, "--with", "split"]
    certain = ["--certify", "--rtol", "0.03"]  # H1 asks whether the ends are equal within 10 %
    yield [*always, *rows, "--operator", "hessian-minus-gauss-newton", *certain]
    yield [*always, *rows, "--operator", "norm-weighted"]
    for checkpoint in ALONG:
        if run.checkpoint(checkpoint).is_file():
            yield [*always, *small, "--checkpoint", checkpoint]
    yield [*always, *rows, "--split", "test"]
    if seed <= 3:
        yield [*always, "--groups", "none", "--classes", "0"]
    if seed == 1:
        yield [*always, "--groups", "all", "--classes", "none"]
    if run.name == "study-sgd-seed1":
        yield from _escapes(run, data_root)


def _escapes(run: RunFolder, data_root: str) -> Iterator[list[str]]:
    """Yield what follows each method's steps: from the network, and from a saddle made of it."""
    always = ["theory", "escape", str(run.path), "--data-root", data_root, "--threads", "1"]
    always += ["--samples", "500", "--methods", "sgd,sam,imbsam,sam-ext,sse-sam"]
    starts = {
        "checkpoint": "--steps 20 --eta 0.001",  # 0.01 is above 2/λ_max: the loss grows
        "rank-deficient": "--steps 60 --eta 0.03 --start rank-deficient --offset 0.01",
    }
    for start, words in starts.items():
        path = run.path / f"escape-{start}.csv"
        if not path.is_file():
            yield [*always, *words.split(), "-o", str(path)]


def finished(runs: Path) -> list[RunFolder]:
    """Find the runs that have ended."""
    found = find_runs(runs)
    return [run for run in found if run.run_file.is_file() and run.run()["state"] == "finished"]


def spare(runs: Path) -> None:
    """Let a sweep find kept runs finished: their logs, without weights, where it will look."""
    for run in finished(KEPT):
        target = RunFolder(runs / run.name)
        if not target.exists():  # which is told by the recipe: it comes last
            for log in ("run_file", *reversed(LOGS)):
                if getattr(run, log).is_file():
                    write_bytes(getattr(target, log), getattr(run, log).read_bytes())


def call(words: list[str], *, may_be: tuple[int, ...] = (0,), output: int | None = None) -> None:
    """Run a command of saddlescope; one that Ctrl-C reaches too is let save what it has."""
    process = subprocess.Popen([sys.executable, "-P", "-m", "saddlescope", *words], stdout=output)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    if code not in may_be:
        sys.exit(f"study: saddlescope {' '.join(words)} ended with {code}")


def measure(run: RunFolder, data_root: str) -> None:
    """Measure what is missing of a run; a row that does not converge is kept all the same."""
    for words in commands(run, data_root):
        call(words, may_be=(0, 3), output=subprocess.DEVNULL)


def keep(run: RunFolder) -> None:
    """Copy a finished run to where it is kept, without the checkpoints of its way."""
    from safetensors.torch import save

    from saddlescope.training import load_checkpoint

    target = RunFolder(KEPT / run.name)
    for log in LOGS:
        if getattr(run, log).is_file():
            write_bytes(getattr(target, log), getattr(run, log).read_bytes())
    about = run.run()
    about["provenance"].pop("command", None)  # it may hold the paths of one machine
    write_json(target.run_file, about)
    weights = load_checkpoint(run.checkpoint("last"))["model"]
    # A tensor of a module that lies channels last is not one block of memory.
    flat = {name: tensor.contiguous() for name, tensor in weights.items()}
    write_bytes(target.checkpoints / "last.safetensors", save(flat))
    for path in sorted([*run.path.glob("escape-*"), *(run.path / "spectrum").rglob("*")]):
        if path.suffix in (".csv", ".json"):
            write_bytes(target.path / path.relative_to(run.path), path.read_bytes())


def main() -> None:
    """Do what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default=os.environ.get("SADDLESCOPE_DATA"))
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--only", choices=("train", "measure", "keep"))
    options = parser.parse_args()
    steps = ("train", "measure", "keep") if options.only is None else (options.only,)
    if options.data_root is None and steps != ("keep",):
        sys.exit("study: name the folder of cifar-10-batches-py: --data-root or SADDLESCOPE_DATA")
    if "train" in steps:
        spare(options.runs)
        words = ["train", str(RECIPE), "-o", str(options.runs), "--jobs", str(options.jobs),
                 "--threads", "1", "--device", "cpu", "--data-root", options.data_root]  # fmt: skip
        call(words)
    runs = [run for run in finished(options.runs) if run.checkpoint("last").is_file()]
    if "measure" in steps:
        here = {run.name for run in runs}
        # A run that was trained elsewhere has its weights where it is kept: its tables grow there.
        kept = [run for run in finished(KEPT) if run.name not in here]
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda run: measure(run, options.data_root), [*runs, *kept]))
    if "keep" in steps:
        for run in runs:
            keep(run)
            print(f"kept: {KEPT / run.name}")
        subprocess.run([sys.executable, str(HERE / "study_results.py")], check=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("study: stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
