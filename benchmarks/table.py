"""What a whole table costs: every class and the whole set, in gradients of all the data.

    saddlescope train train/cifar100-resnet32-15ep.toml --data-root FOLDER -o runs/c15
    python benchmarks/table.py runs/c15 --data-root FOLDER -o table.json

Restartable: a finished row stands in the JSON and is not measured again. `over_products_alone` is
the ratio of all the time to (products) x (median product), the price of everything beside products.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from costs import measure_cost

from saddlescope.curvature import Programs, select_subsets
from saddlescope.curvature.samples import SampleBatches
from saddlescope.curvature.subsets import subset_indices
from saddlescope.measurement import run_target
from saddlescope.runs import RunFolder, provenance, write_json


def summary(rows):
    """Totals over rows, in gradients of all the data."""
    classes = [row for row in rows if row["kind"] == "class"]
    full = sum(row["gradient_seconds"] for row in classes or rows)
    found = {}
    for kind, chosen in (("classes", classes), ("with groups", rows)):
        if not chosen:
            continue
        alone = sum(row["products"] * row["product"] * row["gradient_seconds"] for row in chosen)
        seconds = sum(row["seconds"] for row in chosen)
        found[kind] = {
            "rows": len(chosen),
            "products": sum(row["products"] for row in chosen),
            "seconds": seconds,
            "full_data_gradients": seconds / full,
            "over_products_alone": seconds / alone,
        }
    large = [row["beside_products"] for row in classes if row["n"] >= 50]
    found["beside_products_from_50_images"] = max(large, default=None)
    return found | {"full_data_gradient_seconds": full}


def main():
    """Measure what is missing and write the JSON after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--classes", choices=("all", "none"), default="all")
    parser.add_argument("--groups", nargs="*", default=["all"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # Other work on the machine does not count, where a single thread computes.
    clock = time.process_time if options.threads == 1 else time.perf_counter
    target = run_target(RunFolder(options.run), data_root=options.data_root)
    content = json.loads(options.output.read_text()) if options.output.is_file() else {}
    rows = content.get("rows", [])
    finished = {(row["kind"], row["name"]) for row in rows}
    programs = Programs("traced")
    began = clock()
    few = SampleBatches(target.samples, torch.arange(2), 2)
    measure_cost(target, few, programs=programs, max_matvecs=2)
    tracing = clock() - began
    chosen = select_subsets(target.samples, classes=options.classes, groups=options.groups)
    for subset in reversed(chosen):
        if (subset.kind, subset.name) in finished:
            continue
        indices = subset_indices(target.samples, subset)
        batches = SampleBatches(target.samples, indices, 256)
        repeats = 3 if len(indices) < 100 else 1
        cost = measure_cost(target, batches, programs=programs, repeats=repeats, clock=clock)
        rows.append(
            {"name": subset.name, "kind": subset.kind, "n": len(indices)}
            | {"threads": options.threads}
            | cost.row()
        )
        print(rows[-1], flush=True)
        write_json(
            options.output,
            {
                "provenance": provenance(),
                "first_trace_seconds": tracing,
                "summary": summary(rows),
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
