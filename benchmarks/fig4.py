"""Fig. 4 at the paper's settings, one method after the other, on one GPU.

    python -m benchmarks.fig4 sse-sam --data-root FOLDER --work FOLDER -o analysis/results

Trains ResNet-34 on CIFAR-100-LT as `train/fig4.toml` says (200 epochs, or --epochs), captured, and
then measures all, head, tail and every class at the last epoch. Stops after so many minutes with
everything saved and exit code 130; the same command goes on, and ends with 0 when the method is
done. The weights stay in --work. What is small goes to -o after every piece: the last epoch's
accuracies and the spectrum table as CSV, versions and hardware as JSON (see analysis/collect.py),
and the metrics of every epoch.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import CLONE

METHODS = ("sgd", "sam", "imbsam", "sam-ext", "sse-sam")
SEED = 9826
"""Of `train/fig4.toml`: the released code's."""

INTERRUPTED = 130
GRACE = 60.0
"""Seconds a step or a row may take after it was told to stop."""


def call(words: list[str], seconds: float) -> int:
    """Run a saddlescope command, interrupted after so many seconds; its exit code."""
    process = subprocess.Popen([sys.executable, "-m", "saddlescope", *words], cwd=CLONE)
    try:
        return process.wait(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        # Killed at any moment it goes on from the last epoch, or row, that was saved.
        process.kill()
        process.wait()
    return INTERRUPTED


def main() -> int:
    """One piece of one method."""
    parser = argparse.ArgumentParser(description="Fig. 4 at the paper's settings.")
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    deadline = time.monotonic() + 60.0 * options.minutes
    name = f"fig4-{options.method}-seed{SEED}"
    run = options.work.resolve() / options.method
    where = ["--device", options.device]
    if options.data_root is not None:
        where += ["--data-root", str(options.data_root.resolve())]
    settings = [
        f"training.epochs={options.epochs}",
        "training.captured=true", "training.channels_last=true", *options.set,
    ]  # fmt: skip
    train = ["train", str(CLONE / "train" / "fig4.toml"), "--only", name, "-o", str(run)]
    for setting in settings:
        train += ["--set", setting]
    if (run / "recipe.toml").is_file():
        train.append("--resume")
    output = options.output.resolve() / f"fig4-{options.method}"
    code = call([*train, *where], deadline - time.monotonic())
    if code == 0:
        spectrum = ["spectrum", str(run), "--classes", "all", "--groups", "all,head,tail", *where]
        code = call(spectrum, deadline - time.monotonic())
    metrics = run / "metrics.jsonl"
    if metrics.is_file():
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(metrics, output.with_name(f"{output.name}-metrics.jsonl"))
    if code == 0:
        subprocess.run(
            [sys.executable, str(CLONE / "analysis" / "collect.py"), str(run), "-o", str(output)],
            check=True,
        )
    elif code == INTERRUPTED:
        print(f"{options.method}: not done; repeat to go on", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
