"""Launches and waits of a training step, a product and a Lanczos step, counted without a device.

    python -m benchmarks.device_calls -o device-calls.json

Tensors are torch's `meta` ones: shapes without content, so the counts do not depend on the machine.
A ResNet-32 with 100 classes; steps of 64 images, 12 of them of the tail, products of 12 images. A
foreach operation counts once and may be several kernels.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from benchmarks.calls import DeviceCalls
from benchmarks.compare.steps import method_steps, random_data
from saddlescope.curvature import HessianOperator, Programs
from saddlescope.curvature.krylov import lanczos
from saddlescope.curvature.products import strategy
from saddlescope.models import build_model
from saddlescope.runs import METHODS, write_json
from saddlescope.sharpness import SharpnessAware


def counted(work):
    """Run something and return its launches and waits."""
    with DeviceCalls() as calls:
        result = work()
    return result, {"launches": calls.launches, "waits": list(calls.waits)}


def training_steps():
    """One step of each method, the second of its epoch."""
    data = random_data(torch.device("cpu"))
    there, found = data.to("meta"), {}
    batch = torch.cat((torch.arange(52), torch.arange(88, 100)))
    for method in METHODS:
        steps = method_steps(method, "resnet32", data)
        steps.model.to("meta")
        steps.data, steps._tail_there = there, steps._is_tail.to("meta")
        steps.begin(0)
        # As torch chooses on a device; on `meta` it would go one parameter after the other.
        steps.optimizer = SharpnessAware(
            steps.model.parameters(), torch.optim.SGD, radii=steps.radii.at(0), lr=0.01,
            momentum=0.9, weight_decay=1e-3, foreach=True,
        )  # fmt: skip
        images = steps.images([batch] * 2)
        steps.take(batch, next(images))
        _, found[method] = counted(lambda s=steps, i=images: s.take(batch, next(i)))
    return found


def products():
    """A product and a Lanczos step of either kind; without values there is nothing to check."""
    strategy._difference = lambda *_: 0.0
    lanczos.ASYMMETRY_LIMIT = 1e9
    model = build_model("resnet32", num_classes=100, in_channels=3, seed=0).eval().to("meta")
    images = torch.randn(12, 3, 32, 32, device="meta")
    batches = [(images, torch.zeros(12, dtype=torch.int64, device="meta"))]
    found = {}
    for kind in ("double-backward", "traced"):
        programs, loss = Programs(kind), nn.CrossEntropyLoss()
        hessian, building = counted(
            lambda p=programs, c=loss: HessianOperator(model, c, batches, programs=p)
        )
        vector = torch.ones(hessian.size, device="meta")
        _, product = counted(lambda h=hessian, v=vector: h.matvec(v))
        process = lanczos.Lanczos(hessian, torch.ones(hessian.size).double(), capacity=5)
        counted(process.step)
        _, step = counted(process.step)
        found[kind] = {"building": building, "product": product, "Lanczos step": step}
    return found


def main():
    """Count, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    found = {"steps": training_steps(), "products": products()}
    for method, calls in found["steps"].items():
        print(f"{method}: {calls['launches']} launches, {len(calls['waits'])} waits")
    for kind, parts in found["products"].items():
        for part, calls in parts.items():
            print(f"{kind}, {part}: {calls['launches']} launches, {len(calls['waits'])} waits")
    write_json(options.output, found)


if __name__ == "__main__":
    main()
