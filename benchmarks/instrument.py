"""What both ends of a class Hessian cost, in gradients of the same samples.

    saddlescope train train/cifar100-resnet32-15ep.toml --data-root FOLDER -o runs/c15
    python benchmarks/instrument.py runs/c15 --data-root FOLDER -o instrument.json

One gradient is an eager forward and backward of the same batch (contiguous, unfolded), timed
before and after every measurement; set-up of the class and the float64 noise product are
included; tracing, paid once a job, is reported apart. Medians over seeds.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from saddlescope.curvature import HessianOperator, Programs, extreme_eigenvalues
from saddlescope.measurement import run_target
from saddlescope.runs import RunFolder, provenance, write_json


def gradient_seconds(target, inputs, classes, repeats):
    """Median seconds of an eager forward and backward."""
    parameters = list(target.model.parameters())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        torch.autograd.grad(target.criterion(target.model(inputs), classes), parameters)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def measure(target, label, strategy, programs, *, certify, seed, repeats=3):
    """One cold run of one class; costs in gradients."""
    indices = (target.samples.targets == label).nonzero().squeeze(1)
    inputs, classes = target.samples.inputs(indices), target.samples.targets[indices]
    before = gradient_seconds(target, inputs, classes, repeats)
    began = time.perf_counter()
    operator = HessianOperator(
        target.model, target.criterion, [(inputs, classes)], programs=programs
    )
    built = time.perf_counter()
    products = []
    real = operator.matvec

    def timed(vector):
        start = time.perf_counter()
        result = real(vector)
        products.append(time.perf_counter() - start)
        return result

    operator.matvec = timed
    marks = {}
    reference = operator.reference

    def timed_reference():
        marks["lanczos"] = time.perf_counter()
        return reference()

    operator.reference = timed_reference
    ends = extreme_eigenvalues(operator, certify=certify, seed=seed)
    done = time.perf_counter()
    gradient = statistics.median([before, gradient_seconds(target, inputs, classes, repeats)])
    return {
        "class": label,
        "n": len(indices),
        "strategy": strategy,
        "certify": certify,
        "seed": seed,
        "products": ends.matvecs,
        "gradients": (done - began) / gradient,
        "setup": (built - began) / gradient,
        "product": statistics.median(products) / gradient,
        "noise_product": (done - marks["lanczos"]) / gradient,
        "beside_products": 1 - (sum(products) / (marks["lanczos"] - built)),
        "gradient_seconds": gradient,
        "lambda_max": ends.lambda_max.value,
        "lambda_min": ends.lambda_min.value,
        "lambda_min_lower": ends.lambda_min.lower,
        "stop_rule": ends.stop_rule,
    }


def main():
    """Run the study and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--classes", type=int, nargs="+", default=[40, 80])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    target = run_target(RunFolder(options.run), data_root=options.data_root)
    rows, summary = [], []
    for threads in options.threads:
        torch.set_num_threads(threads)
        traced = Programs("traced")
        began = time.perf_counter()
        measure(target, options.classes[-1], "traced", traced, certify=False, seed=99, repeats=1)
        tracing = time.perf_counter() - began
        for certify in (False, True):
            for label in options.classes:
                for strategy, programs in (("traced", traced), ("double-backward", None)):
                    found = [
                        measure(target, label, strategy, programs, certify=certify, seed=seed)
                        for seed in range(options.seeds)
                    ]
                    rows += [row | {"threads": threads} for row in found]
                    middle = {
                        key: statistics.median(row[key] for row in found)
                        for key in ("n", "products", "gradients", "setup", "product",
                                    "noise_product", "beside_products")
                    }  # fmt: skip
                    summary.append(
                        {"threads": threads, "certify": certify, "class": label,
                         "strategy": strategy, "first_class_seconds": tracing, **middle}
                    )  # fmt: skip
                    print(summary[-1], flush=True)
    write_json(options.output, {"provenance": provenance(), "summary": summary, "rows": rows})


if __name__ == "__main__":
    main()
