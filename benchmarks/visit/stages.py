"""What the stages of a visit do, each in a process of its own.

    python -m benchmarks.visit.stages c -o FOLDER --device cuda --seconds 60

A stage is a list of units with a name each. What a unit finds goes to FOLDER/STAGE.json at once; a
unit that is there is not measured again, one that fails leaves its error and the next one follows.
"""

import argparse
import json
import signal
import sys
import time
import traceback
from pathlib import Path

OK, FAILED, INTERRUPTED = 0, 1, 130


class Stage:
    """The units of a stage on disk.

    Args:
        options: of the command line.
    """

    def __init__(self, options):
        self.options, self.began = options, time.monotonic()
        self.path = options.output / f"{options.stage}.json"
        self.found = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.failed = False

    @property
    def left(self):
        """Seconds."""
        return self.options.seconds - (time.monotonic() - self.began)

    def unit(self, name, work, *, needs=0.0):
        """Measure a unit unless it was; its result, None where it failed.

        Raises:
            KeyboardInterrupt: less time is left than it needs.
        """
        before = self.found.get(name)
        if before is not None and "error" not in before:
            return before
        if self.left < needs:
            raise KeyboardInterrupt
        began = time.monotonic()
        try:
            result = work()
        except Exception as error:  # recorded, and the next unit follows
            traceback.print_exc()
            self.failed = True
            result = {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
        self.put(name, result | {"unit_seconds": round(time.monotonic() - began, 3)})
        print(name, self.found[name], flush=True)
        return None if "error" in result else self.found[name]

    def put(self, name, result):
        """Keep a result."""
        from saddlescope.runs import write_json

        self.found[name] = result
        write_json(self.path, self.found)


def stage_a(stage):
    """Machine and versions."""
    from benchmarks.visit import machine

    stage.unit("provenance", lambda: machine.described(stage.options.device))
    stage.unit("packages", machine.packages)
    stage.unit("speed", lambda: machine.speed(stage.options.device, stage.options.rehearse))


def stage_b(stage):
    """The tests that need CUDA."""
    from benchmarks.visit import machine

    stage.unit("pytest", lambda: machine.cuda_tests(stage.left, stage.options.rehearse))


def stage_c(stage):
    """Products against float64."""
    from benchmarks.visit import products

    products.products(stage)


def stage_d(stage):
    """A table of classes beside other tools, with and without CUDA graphs."""
    from benchmarks.visit import products

    products.tables(stage)


def stage_e(stage):
    """Fig. 4."""
    from benchmarks.visit import training

    training.figure_4(stage)


def stage_f(stage):
    """Step costs."""
    from benchmarks.visit import training

    training.step_costs(stage)


def main():
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=list("abcdef"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--run", type=Path, action="append", default=[])
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    import torch

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"--device {options.device}: torch sees no CUDA device", flush=True)
        return FAILED
    if options.device == "cpu":
        torch.set_num_threads(1)
    stage = Stage(options)
    try:
        globals()[f"stage_{options.stage}"](stage)
    except KeyboardInterrupt:
        return INTERRUPTED
    return FAILED if stage.failed else OK


if __name__ == "__main__":
    sys.exit(main())
