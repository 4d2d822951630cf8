"""What our own rules for a convolution's second derivative save, and float64 in pieces.

    python benchmarks/convolutions.py -o convolutions.json

An untrained ResNet-32 on random images, double backward, one thread: seconds of a product with
torch's rules over those with ours, and of the float64 product of a row's check with the whole batch
at once over those in pieces, in one run. Least of several.
"""

import argparse
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from saddlescope.curvature import HessianOperator, convolutions, linearisations
from saddlescope.models import build_model
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
    generator = torch.Generator().manual_seed(0)
    model = build_model("resnet32", num_classes=100, in_channels=3, seed=0).eval()
    theirs = patch.object(linearisations, "TwiceDifferentiable", nullcontext)
    whole = patch.object(convolutions, "PIECE_BYTES", 1 << 40)
    rows = []
    for size in SIZES:
        images = torch.randn(size, 3, 32, 32, generator=generator)
        batches = [(images, torch.randint(100, (size,), generator=generator))]

        def operator(batches=batches):
            return HessianOperator(model, nn.CrossEntropyLoss(), batches)

        ours = operator()
        with theirs:
            native = operator()
        vector = torch.randn(ours.size, generator=generator)

        def check(made=ours, vector=vector):
            made.reference().matvec(vector.double())

        seconds = {
            "product": least_seconds(lambda: ours.matvec(vector)),  # noqa: B023
            "product, torch's rules": least_seconds(lambda: native.matvec(vector)),  # noqa: B023
            "float64": least_seconds(check, 3),
        }
        with whole:
            seconds["float64, whole batch"] = least_seconds(check, 3)
        with whole, theirs:
            seconds["float64, whole batch, torch's rules"] = least_seconds(check, 3)
        rows.append({"images": size} | seconds)
        print(rows[-1], flush=True)
    write_json(options.output, {"provenance": provenance(), "rows": rows})


if __name__ == "__main__":
    main()
