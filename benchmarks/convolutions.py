"""What our own rules for a convolution's second derivative save, and float64 in pieces.

    python benchmarks/convolutions.py -o convolutions.json

An untrained ResNet-32 on random images, double backward, one thread: seconds of a product with
torch's rules over those with ours, and of the float64 product of a row's check with the whole batch
at once over those in pieces, in one run. Least of several.
"""

import argparse
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from costs import untrained_resnet32
from torch import nn

from saddlescope.curvature import HessianOperator, convolutions, linearisations
from saddlescope.runs import provenance, write_json

SIZES = (5, 12, 40, 77)
REPEATS = 7


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
    rows = []
    for model, images, targets in untrained_resnet32(SIZES):
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
        with whole:
            seconds["float64, whole batch"] = least_seconds(check, 3)
        with whole, theirs:
            seconds["float64, whole batch, torch's rules"] = least_seconds(check, 3)
        rows.append({"images": len(targets)} | seconds)
        print(rows[-1], flush=True)
    write_json(options.output, {"provenance": provenance(), "rows": rows})


if __name__ == "__main__":
    main()
