"""One visit to a GPU, in stages of falling worth; a second visit takes up where the first stopped.

    python -m benchmarks.visit --minutes 9 --data-root FOLDER -o visit
    python -m benchmarks.visit --device cpu --rehearse -o rehearsal

| stage | what | at most |
|---|---|---|
| a | machine and versions, and what is missing | 30 s |
| b | the tests that need CUDA | 60 s |
| c | products against float64, TF32 off, their launches counted | 60 s |
| d | classes beside other tools, with and without CUDA graphs (`--run` names networks) | 120 s |
| e | Fig. 4 with ResNet-32: five methods at once, then their spectra | what is left |
| f | step costs, ResNet-34, fewer digits | 90 s |

Each stage is a process of its own with a limit of its own, writes what it has found at once, and
does not stop the next. `visit.json` says which are done. Exit code 0 when all are, 130 when a
repetition would go on, 1 when a stage failed. What the stages do is in `stages.py`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import CLONE, environment
from saddlescope.runs import write_json

MODULE = "benchmarks.visit.stages"
STAGES = {"a": 30.0, "b": 60.0, "c": 60.0, "d": 120.0, "e": 560.0, "f": 90.0}
"""Stage to the most seconds it may take."""

GRACE = 15.0
"""Seconds that a stage has to save its state after it was told to stop."""

OK, FAILED, INTERRUPTED = 0, 1, 130


def run_stage(stage, seconds, options):
    """Run one stage in a process of its own; its exit code.

    It is told how long it has, interrupted when that is over, and killed when it does not end.
    """
    words = [sys.executable, "-m", MODULE, stage, "-o", str(options.output),
             "--device", options.device, "--seconds", f"{seconds:.1f}"]  # fmt: skip
    words += ["--rehearse"] if options.rehearse else []
    words += ["--data-root", str(options.data_root)] if options.data_root else []
    for run in options.run:
        words += ["--run", str(run)]
    with open(options.output / f"{stage}.log", "a") as log:
        process = subprocess.Popen(
            words, stdout=log, stderr=subprocess.STDOUT, cwd=CLONE, start_new_session=True,
            env=environment(PYTHONUNBUFFERED="1"),
        )  # fmt: skip
        try:
            return process.wait(timeout=seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.send_signal(signal.SIGINT)
        try:
            return process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
            process.wait()
            return INTERRUPTED


def last_line(path):
    """What a stage has said last."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def visit(options):
    """Run what is not done yet, in order; the states of all stages that were asked for."""
    deadline = time.monotonic() + 60.0 * options.minutes
    options.output.mkdir(parents=True, exist_ok=True)
    record = options.output / "visit.json"
    states = json.loads(record.read_text()) if record.is_file() else {}
    for stage in options.stages:
        if states.get(stage, {}).get("state") == "done":
            print(f"{stage}: done before", flush=True)
            continue
        left = deadline - time.monotonic() - GRACE
        if left < 5.0:
            print(f"{stage}: no time left", flush=True)
            break
        began = time.monotonic()
        code = run_stage(stage, min(STAGES[stage], left), options)
        state = {OK: "done", INTERRUPTED: "stopped"}.get(code, "failed")
        states[stage] = {
            "state": state, "exit_code": code, "seconds": round(time.monotonic() - began, 1),
            "said": last_line(options.output / f"{stage}.log"),
        }  # fmt: skip
        write_json(record, states)
        print(f"{stage}: {state} after {states[stage]['seconds']} s", flush=True)
    return {stage: states.get(stage, {}).get("state") for stage in options.stages}


def main():
    """Visit, and say by the exit code what is left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="of the whole visit")
    parser.add_argument("--stages", default=",".join(STAGES), help="such as a,b,c")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rehearse", action="store_true", help="everything at toy size")
    parser.add_argument("--data-root", type=Path, help="folder of cifar-100-python; stage e")
    parser.add_argument("--run", type=Path, action="append", default=[],
                        help="a trained network for stage d; may be repeated")  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.stages = [stage.strip() for stage in options.stages.split(",") if stage.strip()]
    if unknown := [stage for stage in options.stages if stage not in STAGES]:
        parser.error(f"stage {unknown[0]!r}: expected {', '.join(STAGES)}")
    if "e" in options.stages and not (options.rehearse or options.data_root):
        parser.error("stage e trains on CIFAR-100: name its folder with --data-root")
    options.output = options.output.resolve()
    options.data_root = options.data_root and options.data_root.resolve()
    options.run = [run.resolve() for run in options.run]
    states = visit(options)
    if "failed" in states.values():
        return FAILED
    return OK if set(states.values()) == {"done"} else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
