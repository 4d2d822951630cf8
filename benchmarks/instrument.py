"""What both ends of a class Hessian cost, in gradients of the same samples.

    saddlescope train train/cifar100-resnet32-15ep.toml --data-root FOLDER -o runs/c15
    python -m benchmarks.instrument runs/c15 --data-root FOLDER -o instrument.json

See `costs` for what a gradient is and what is counted. Medians over seeds. On one thread the clock
is that of the process, so that other work on the machine does not count; on more it is the wall's.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from benchmarks.costs import measure_cost
from saddlescope.curvature import Programs
from saddlescope.measurement import run_target
from saddlescope.runs import RunFolder, provenance, write_json

MEDIANS = (
    "products", "gradients", "setup", "product", "noise_product", "beside_products",
    "over_products_alone",
)  # fmt: skip


def main():
    """Run the study and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--classes", type=int, nargs="+", default=[40, 80])
    parser.add_argument("--strategies", nargs="+", default=["traced", "double-backward"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    target = run_target(RunFolder(options.run), data_root=options.data_root)
    rows, summary = [], []
    for threads in options.threads:
        torch.set_num_threads(threads)
        clock = time.process_time if threads == 1 else time.perf_counter
        for strategy in options.strategies:
            programs = Programs(strategy)
            began = clock()
            batches = {label: class_batches(target, label) for label in options.classes}
            measure_cost(target, batches[options.classes[-1]], programs=programs, clock=clock)
            first = clock() - began
            for certify in (False, True):
                for label in options.classes:
                    found = [
                        measure_cost(
                            target, batches[label], programs=programs, clock=clock,
                            certify=certify, seed=seed,
                        ).row()
                        for seed in range(options.seeds)
                    ]  # fmt: skip
                    words = {
                        "threads": threads, "strategy": strategy, "certify": certify,
                        "class": label, "n": len(batches[label][0][1]),
                    }  # fmt: skip
                    rows += [words | {"seed": seed} | row for seed, row in enumerate(found)]
                    middle = {
                        key: statistics.median(row[key] for row in found)
                        for key in MEDIANS
                    }  # fmt: skip
                    summary.append(words | {"first_class_seconds": first} | middle)
                    print(summary[-1], flush=True)
                    write_json(
                        options.output,
                        {"provenance": provenance(), "summary": summary, "rows": rows},
                    )


def class_batches(target, label):
    """All samples of a class as one batch."""
    indices = (target.samples.targets == label).nonzero().squeeze(1)
    return [(target.samples.inputs(indices), target.samples.targets[indices])]


if __name__ == "__main__":
    main()
