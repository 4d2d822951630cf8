"""Predicted against measured peaks of memory.

    python -m benchmarks.memory -o memory.json

Every case runs in a process of its own: an untrained ResNet-32 on random images, a fixed number of
products, and the float64 check at the end. On a CPU the measured peak is the growth of the resident
set (VmHWM of /proc/self/status, reset) after one product of the same case: that loads and compiles
what is kept for good, some hundred MiB. glibc is told to give freed blocks back
(MALLOC_MMAP_THRESHOLD_): by default it may hold two to four times what is in use; the last column
says how much. On CUDA the measured peak is torch.cuda.max_memory_allocated. The prediction does the
work of two and of three samples in another process.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks import environment
from benchmarks.compare.peak import peak_bytes
from saddlescope.curvature import HessianOperator, Programs, extreme_eigenvalues
from saddlescope.curvature.forecast.planning import measure_footprint
from saddlescope.models import build_model
from saddlescope.runs import provenance, write_json

PRODUCTS = 12
SMALL_BASIS = 10
"""Vectors of the basis that has to be restarted."""

CASES = [
    {"strategy": strategy, "samples": samples, "batch_size": batch_size, "retained": retained,
     "restarted": restarted}
    for strategy, samples, batch_size, retained, restarted in (
        ("double-backward", 12, 256, True, False),
        ("double-backward", 12, 256, False, True),
        ("double-backward", 50, 256, True, False),
        ("double-backward", 50, 32, False, False),
        ("double-backward", 100, 256, True, True),
        ("traced", 12, 256, True, False),
        ("traced", 50, 256, True, True),
        ("traced", 100, 256, False, False),
    )
]  # fmt: skip


def problem(samples, device):
    """The network and its images."""
    generator = torch.Generator().manual_seed(0)
    model = build_model("resnet32", num_classes=100, in_channels=3, seed=0).to(device).eval()
    images = torch.randn(samples, 3, 32, 32, generator=generator).to(device)
    return model, images, torch.randint(0, 100, (samples,), generator=generator).to(device)


def limits(case, model):
    """Options of the operator, and of the run."""
    vector = 4 * sum(p.numel() for p in model.parameters())
    return (
        {"memory_budget": None if case["retained"] else 0},
        {"max_matvecs": PRODUCTS,
         "basis_memory": SMALL_BASIS * vector if case["restarted"] else None},
    )  # fmt: skip


def measure(case, device):
    """Peak bytes of the case, beside model and data."""
    torch.set_num_threads(1)
    model, images, targets = problem(case["samples"], device)
    programs = Programs(case["strategy"])
    criterion, step = nn.CrossEntropyLoss(), case["batch_size"]
    building, running = limits(case, model)

    def run(count, **options):
        batches = list(zip(images[:count].split(step), targets[:count].split(step), strict=True))
        operator = HessianOperator(model, criterion, batches, programs=programs, **building)
        return extreme_eigenvalues(operator, rtol=1e-12, atol=0.0, certify=True, **options)

    # Once for what is loaded, traced and compiled for these shapes, and never freed.
    run(case["samples"], max_matvecs=1)
    ends = []
    peak = peak_bytes(torch.device(device), lambda: ends.append(run(case["samples"], **running)))
    assert ends[0].matvecs == PRODUCTS, (ends[0].matvecs, ends[0].stop_rule)
    return peak


def predict(device):
    """A plan for every case."""
    torch.set_num_threads(1)
    model, images, targets = problem(4, device)
    footprints, plans = {}, []
    for case in CASES:
        strategy = case["strategy"]
        if strategy not in footprints:
            footprints[strategy] = measure_footprint(
                model, nn.CrossEntropyLoss(), (images, targets), programs=Programs(strategy)
            )
        building, running = limits(case, model)
        plan = footprints[strategy].plan(
            case["samples"], batch_size=case["batch_size"], products=PRODUCTS, **building, **running
        )
        plans.append(vars(plan) | {"peak": plan.peak})
    return plans


def in_a_process(*arguments, **more):
    """What this script prints when called like that."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *arguments],
        capture_output=True, text=True, check=True, env=environment(**more),
    )  # fmt: skip
    return json.loads(done.stdout)


def main():
    """Run the study and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--predict", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    if options.predict:
        print(json.dumps(predict(options.device)))
        return
    if options.case is not None:
        print(measure(CASES[options.case], options.device))
        return
    if options.output is None:
        parser.error("name the file to write: -o memory.json")
    device = ("--device", options.device)
    rows = []
    for index, (case, plan) in enumerate(
        zip(CASES, in_a_process("--predict", *device), strict=True)
    ):
        arguments = ("--case", str(index), *device)
        measured = in_a_process(*arguments, MALLOC_MMAP_THRESHOLD_="65536")
        rows.append(case | plan | {"measured": measured, "ratio": plan["peak"] / measured})
        if options.device == "cpu":
            rows[-1]["default_malloc"] = in_a_process(*arguments)
        print({**case, "ratio": round(rows[-1]["ratio"], 3), "MiB": measured >> 20}, flush=True)
    write_json(options.output, {"provenance": provenance(), "products": PRODUCTS, "rows": rows})


if __name__ == "__main__":
    main()
