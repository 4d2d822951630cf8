"""What a training step of each method costs, in SGD steps, against the passes it needs.

With f seconds for a forward and b for a backward pass of the same batch, a method of F forward and
B backward passes cannot take less than (F·f + B·b)/(f + b) SGD steps. Methods, passes and the
reference take turns, so that the machine's moods hit all alike; medians. The reference is the
two-step SAM that most PyTorch code uses (`first_step`, `second_step`, a loop over parameters),
with the same batch, augmentation and base optimiser.
"""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.clock import seconds_now
from benchmarks.compare.cases import Cases
from benchmarks.compare.record import Record, Unit
from saddlescope.longtail import Cut, LabelledImages, LongTailData, Thresholds
from saddlescope.models import build_model
from saddlescope.runs import METHODS
from saddlescope.sharpness import SharpnessAware
from saddlescope.training.recipe import parse_recipe
from saddlescope.training.steps import Steps

BATCH = 64
CLASSES = 100
REFERENCE = "sam, two-step reference"

_SGD: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-3}


def steps_units(cases: Cases, *, rounds: int = 15) -> Iterator[Unit]:
    """One unit a network: the large one only on a GPU."""
    networks = ["resnet32"] if cases.device.type == "cpu" else ["resnet32", "resnet34"]
    for network in networks:

        def measure(_: Record, network: str = network) -> dict[str, Any]:
            return measure_steps(network, cases.device, rounds=rounds)

        yield Unit(f"steps/{network}", measure)


def measure_steps(network: str, device: torch.device, *, rounds: int) -> dict[str, Any]:
    """Seconds of the passes, of each method's step and of the reference's.

    Args:
        network: a key of `MODELS`.
        device: to train on.
        rounds: turns that count; two more warm up.
    """
    data = random_data(device)
    methods = {method: method_steps(method, network, data) for method in METHODS}
    reference = _TwoStep(network, device)
    plain = methods["sgd"]
    parameters = list(plain.model.parameters())
    times: dict[str, list[float]] = {}

    def clock(name: str, work: Callable[[], Any]) -> Any:
        began = seconds_now(device)
        result = work()
        times.setdefault(name, []).append(seconds_now(device) - began)
        return result

    for turn in range(rounds + 2):
        if turn == 2:
            times.clear()
        indices = (torch.arange(BATCH) + turn * BATCH) % len(data.train)
        inputs, labels = data.train.normalised(indices), data.train.labels[indices]
        loss = clock("forward", lambda: nn.functional.cross_entropy(plain.model(inputs), labels))  # noqa: B023
        clock("backward", lambda: torch.autograd.grad(loss, parameters))  # noqa: B023
        for method, steps in methods.items():
            clock(method, lambda: steps.take(indices, next(steps.images([indices]))))  # noqa: B023
        images = next(plain.images([indices]))
        clock(REFERENCE, lambda: reference.step(images, labels))  # noqa: B023
    middle = {name: statistics.median(seconds) for name, seconds in times.items()}
    f, b, sgd = middle["forward"], middle["backward"], middle["sgd"]
    rows = []
    for method, steps in methods.items():
        forwards, backwards = steps.radii.passes(0)
        least = (forwards * f + backwards * b) / (f + b)
        old = METHODS[method].released
        rows.append(
            {"method": method, "forwards": forwards, "backwards": backwards,
             "seconds": middle[method], "sgd_steps": middle[method] / sgd, "least": least,
             "released_code_least": old and (old[0] * f + old[1] * b) / (f + b)}
        )  # fmt: skip
    rows.append(
        {"method": REFERENCE, "forwards": 2, "backwards": 2, "seconds": middle[REFERENCE],
         "sgd_steps": middle[REFERENCE] / sgd, "least": 2.0, "released_code_least": None}
    )  # fmt: skip
    return {"network": network, "batch_size": BATCH, "forward_seconds": f, "backward_seconds": b,
            "beside_passes": (sgd - f - b) / sgd, "rows": rows}  # fmt: skip


class _TwoStep:
    """SAM in two steps on `.grad`, each a loop over parameters."""

    def __init__(self, network: str, device: torch.device, *, rho: float = 0.05) -> None:
        self.model = build_model(network, num_classes=CLASSES, in_channels=3, seed=0)
        self.model.to(device).train()
        self.base = torch.optim.SGD(self.model.parameters(), **_SGD)
        self.rho = rho

    def step(self, inputs: Tensor, labels: Tensor) -> None:
        """One step of SAM."""
        nn.functional.cross_entropy(self.model(inputs), labels).backward()
        with torch.no_grad():
            parameters = [p for p in self.model.parameters() if p.grad is not None]
            norm = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
            moves = []
            for parameter in parameters:
                assert parameter.grad is not None
                moves.append(parameter.grad * (self.rho / (norm + 1e-12)))
                parameter.add_(moves[-1])
        self.base.zero_grad()
        nn.functional.cross_entropy(self.model(inputs), labels).backward()
        with torch.no_grad():
            for parameter, move in zip(parameters, moves, strict=True):
                parameter.sub_(move)
        self.base.step()
        self.base.zero_grad()


def random_data(device: torch.device) -> LongTailData:
    """Random images in CIFAR's shape, the classes in turn; the last 18 of 100 are the tail."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (BATCH * 8, 3, 32, 32), dtype=torch.uint8, generator=generator)
    train = LabelledImages(pixels, torch.arange(BATCH * 8) % CLASSES, (0.5,) * 3, (0.25,) * 3)
    return LongTailData(
        name="random", train=train, test=train, class_names=tuple(map(str, range(CLASSES))),
        counts=tuple(1000 - c for c in range(CLASSES)), thresholds=Thresholds(919, 950, 930),
        imbalance_factor=1.0, cut=Cut(),
    ).to(device)  # fmt: skip


def method_steps(method: str, network: str, data: LongTailData) -> Steps:
    """The steps of one method, as training takes them."""
    recipe = parse_recipe(
        {
            "name": "steps",
            "data": {"name": "random", "imbalance_factor": 1.0},
            "model": {"name": network},
            # gamma 0: sse-sam after its switch
            "method": {"name": method, "gamma": 0.0},
            "training": {"epochs": 1},
        },
        origin="benchmark",
    )
    model = build_model(network, num_classes=CLASSES, in_channels=3, seed=0)
    model.to(data.train.device).train()
    radii = recipe.method.radii(1)
    optimizer = SharpnessAware(model.parameters(), torch.optim.SGD, radii=radii.at(0), **_SGD)
    return Steps(recipe, data, model, optimizer, radii)
