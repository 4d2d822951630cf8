"""What it costs to make sure that a matrix is the one asked for.

    python -m benchmarks.guards -o guards.json

Processor time of class tables with the checks of a job (derivatives against differences, a loss
repeated from another random state, a source read again) and with these left out, in turn, in one
process on one thread. What else is checked (changed weights, halves of a batch) stays on in both.
The networks are untrained and the images random or digits: few products, so the checks weigh more
than in a table of a trained network.
"""

import argparse
import logging
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import saddlescope.curvature.operators.hessian as operators
from saddlescope.curvature import class_spectra
from saddlescope.models import build_model
from saddlescope.runs import provenance, write_json

LEFT_OUT = {
    "check_derivatives": lambda *_: 0.0,
    "verify_few": lambda *_: None,
    "verify_source": lambda *_: None,
}


@contextmanager
def unguarded():
    """Leave the checks of a job out."""
    saved = {name: getattr(operators, name) for name in LEFT_OUT}
    try:
        for name, nothing in LEFT_OUT.items():
            setattr(operators, name, nothing)
        yield
    finally:
        for name, check in saved.items():
            setattr(operators, name, check)


def cases():
    """Name to model, data and classes."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:300, None] / 16
    small = build_model("resnet8", num_classes=10, in_channels=1, seed=0).eval()
    data = images, torch.tensor(digits.target)[:300]
    yield "digits, 3 classes", small, data, [0, 1, 9]
    yield "digits, 1 class", small, data, [9]
    torch.manual_seed(0)
    large = build_model("resnet20", num_classes=100, in_channels=3, seed=0).eval()
    random = torch.randn(50, 3, 32, 32), torch.zeros(50, dtype=torch.int64)
    yield "ResNet-20, 1 class of 50", large, random, [0]


def main():
    """Time both, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    found = {}
    for name, model, data, classes in cases():

        def table(model=model, data=data, classes=classes):
            began = time.process_time()
            class_spectra(model, nn.CrossEntropyLoss(), data, classes=classes, groups=())
            return time.process_time() - began

        table()  # imports and first calls
        guarded, bare = [], []
        for _ in range(options.rounds):
            guarded.append(table())
            with unguarded():
                bare.append(table())
        ratio = min(guarded) / min(bare)
        found[name] = {"guarded_s": min(guarded), "bare_s": min(bare), "ratio": round(ratio, 2)}
        print(name, found[name], flush=True)
    about = {k: v for k, v in provenance().items() if k != "command"}
    write_json(options.output, {"cases": found, "about": about})


if __name__ == "__main__":
    main()
