"""What our own rules for a convolution's second derivative save, and our float64 convolutions.

    python -m benchmarks.convolutions -o convolutions.json

An untrained ResNet-32 and a ResNet-34 on random images, double backward, one thread, in one run:
seconds of a product with our rules and with torch's, and of the float64 product of a row's check
(its linearisation included) with our convolutions, without the single matrix product for small
maps, with the whole batch at once, and with torch's rules besides. Least of several.
"""

import argparse
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from benchmarks.costs import untrained
from saddlescope.curvature import HessianOperator
from saddlescope.curvature.products import convolutions, linearisations, unrolled
from saddlescope.runs import provenance, write_json

CASES = {"resnet32": (5, 12, 40, 77), "resnet34": (5, 12)}
REPEATS = 5


def least_seconds(work, repeats=REPEATS):
    """Of the process, so that other work does not count."""
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


def main():
    """Measure every size and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    theirs = patch.object(linearisations, "TwiceDifferentiable", nullcontext)
    whole = patch.object(convolutions, "PIECE_BYTES", 1 << 40)
    apart = patch.object(unrolled, "MANY", float("inf"))
    rows = []
    for network, model, images, targets in (
        (name, *problem) for name, sizes in CASES.items() for problem in untrained(name, sizes)
    ):
        ours = HessianOperator(model, nn.CrossEntropyLoss(), [(images, targets)])
        with theirs:
            native = HessianOperator(model, nn.CrossEntropyLoss(), [(images, targets)])
        vector = torch.linspace(-1.0, 1.0, ours.size)

        def check(made=ours, vector=vector):
            made.reference().matvec(vector.double())

        seconds = {
            "product": least_seconds(partial(ours.matvec, vector)),
            "product, torch's rules": least_seconds(partial(native.matvec, vector)),
            "float64": least_seconds(check, 3),
        }
        with apart:
            seconds["float64, sample by sample"] = least_seconds(check, 3)
        with apart, whole:
            seconds["float64, whole batch"] = least_seconds(check, 3)
        with apart, whole, theirs:
            seconds["float64, whole batch, torch's rules"] = least_seconds(check, 3)
        rows.append({"network": network, "images": len(targets)} | seconds)
        print(rows[-1], flush=True)
    write_json(options.output, {"provenance": provenance(), "rows": rows})


if __name__ == "__main__":
    main()
