"""From how many images on a recording pays, for a row that is measured alone.

    python -m benchmarks.tracing -o tracing.json

An untrained ResNet-32 on random images, 20 products, and the float64 check, with one thread: by
double backward, and by a program recorded for this row alone. `operations_saved` is what
`saddlescope.curvature.products.strategy.TRACING_PAYS_FROM` is compared with.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.costs import measure_cost, untrained
from saddlescope.curvature import Programs, TensorSamples
from saddlescope.curvature.products.strategy import operations_saved
from saddlescope.measurement import Target
from saddlescope.runs import provenance, write_json

SIZES = (24, 40, 77, 154)
FORWARD = 1.39e8
"""Operations of a ResNet-32's forward pass of one image of 32x32."""


def main():
    """Measure both kinds at every size and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for model, inputs, targets in untrained("resnet32", SIZES):
        size = len(targets)
        target = Target(model, nn.CrossEntropyLoss(), TensorSamples(inputs, targets), {})
        row = {"images": size, "operations_saved": operations_saved([size], gradient=3.0 * FORWARD)}
        for strategy in ("double-backward", "traced"):
            cost = measure_cost(
                target, [(inputs, targets)], programs=Programs(strategy), clock=time.process_time,
                rtol=1e-9, atol=0.0, max_matvecs=20,
            )  # fmt: skip
            row[strategy] = {
                name: cost.row()[name]
                for name in ("seconds", "gradients", "setup", "product", "noise_product")
            }
        rows.append(row)
        print(row, flush=True)
    write_json(options.output, {"provenance": provenance(), "rows": rows})


if __name__ == "__main__":
    main()
