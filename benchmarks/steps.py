"""What a training step of each method costs, in SGD steps, against the passes it needs.

    python benchmarks/steps.py -o steps.json

With f seconds for a forward and b for a backward pass of the same batch, a method of F forward and
B backward passes cannot take less than (F·f + B·b)/(f + b) SGD steps. Methods and passes are
interleaved, so that the machine's moods hit all alike; medians. `beside_passes` is the share of an
SGD step that is neither pass: batch, augmentation, perturbation, update, log.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from saddlescope.longtail.datasets import LabelledImages, LongTailData
from saddlescope.models import build_model
from saddlescope.runs import METHODS, provenance, write_json
from saddlescope.sharpness import SharpnessAware
from saddlescope.training.recipe import parse_recipe
from saddlescope.training.steps import Steps

RELEASED = {"sgd": (1, 1), "sam": (2, 2), "imbsam": (2, 3), "sam-ext": (4, 4), "sse-sam": (4, 4)}
"""Forward and backward passes of a step of the paper's code."""


def images(count, classes):
    """Random images in CIFAR's shape, the classes in turn."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return LabelledImages(pixels, torch.arange(count) % classes, (0.5,) * 3, (0.25,) * 3)


def make_steps(method, options):
    """The steps of one method, as training takes them."""
    recipe = parse_recipe(
        {
            "name": "steps",
            "data": {"name": "random", "imbalance_factor": 1.0},
            "model": {"name": options.model},
            "method": {"name": method, "gamma": 0.0},
            "training": {"epochs": 1},
        },
        origin="benchmark",
    )
    classes = 100
    train = images(options.batch_size * 8, classes)
    data = LongTailData(
        name="random", train=train, test=train, class_names=tuple(map(str, range(classes))),
        # The last 18 classes are the tail: 18 % of the samples, as in the paper.
        counts=tuple(1000 - c for c in range(classes)), tail_threshold=919, many_above=950,
        few_below=930, imbalance_factor=1.0, profile="exp", subset="first", subset_seed=0,
    )  # fmt: skip
    model = build_model(options.model, num_classes=classes, in_channels=3, seed=0)
    model.to(options.device).train()
    radii = recipe.method.radii(1)  # gamma 0: sse-sam after its switch
    optimizer = SharpnessAware(
        model.parameters(), torch.optim.SGD, radii=radii.at(0), lr=0.01, momentum=0.9,
        weight_decay=1e-3,
    )  # fmt: skip
    return Steps(recipe, data.to(options.device), model, optimizer, radii)


def main():
    """Time passes and steps in turn and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet32")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps = {method: make_steps(method, options) for method in METHODS}
    plain = steps["sgd"]
    parameters = list(plain.model.parameters())
    criterion = torch.nn.CrossEntropyLoss()
    times = {name: [] for name in ("forward", "backward", *METHODS)}

    def clock():
        if options.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    for turn in range(options.rounds + 2):
        indices = (torch.arange(options.batch_size) + turn * options.batch_size) % len(
            plain.data.train
        )
        inputs = plain.data.train.normalised(indices)
        labels = plain.data.train.labels[indices]
        began = clock()
        loss = criterion(plain.model(inputs), labels)
        forward = clock()
        torch.autograd.grad(loss, parameters)
        backward = clock()
        found = {"forward": forward - began, "backward": backward - forward}
        for method, of_method in steps.items():
            began = clock()
            of_method.take(indices)
            found[method] = clock() - began
        if turn >= 2:  # the first ones warm up
            for name, seconds in found.items():
                times[name].append(seconds)
    middle = {name: statistics.median(seconds) for name, seconds in times.items()}
    f, b, sgd = middle["forward"], middle["backward"], middle["sgd"]
    rows = []
    for method, of_method in steps.items():
        forwards, backwards = of_method.radii.passes(0)
        least = (forwards * f + backwards * b) / (f + b)
        old = RELEASED[method]
        row = {
            "method": method, "forwards": forwards, "backwards": backwards,
            "sgd_steps": middle[method] / sgd, "least": least,
            "over_least": middle[method] / sgd / least,
            "released_code_least": (old[0] * f + old[1] * b) / (f + b),
            "seconds": middle[method],
        }  # fmt: skip
        rows.append(row)
        print(row)
    content = {
        "provenance": provenance(device=options.device),
        "model": options.model, "batch_size": options.batch_size, "threads": options.threads,
        "forward_seconds": f, "backward_seconds": b, "beside_passes": (sgd - f - b) / sgd,
        "rows": rows,
    }  # fmt: skip
    print("beside passes", content["beside_passes"])
    write_json(options.output, content)


if __name__ == "__main__":
    main()
