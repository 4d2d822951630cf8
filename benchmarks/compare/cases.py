"""The cases by name.

The classes of CIFAR-100-LT come from run folders where they are given; where they are not, a
network of the same kind and images of the same shapes stand in, made here. The other cases are
made here always, from seeds: an MLP small enough for its dense Hessian, the bundled digits, and a
small transformer.
"""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.compare.problems import Problem
from saddlescope.errors import UsageError
from saddlescope.longtail import class_counts, load_data
from saddlescope.measurement import Target, run_target
from saddlescope.models import build_model
from saddlescope.runs import RunFolder

CLASSES = (0, 40, 80, 99)
"""Of CIFAR-100-LT at IF = 100: 500, 77, 12 and 5 images."""

TABLE_CLASSES = (20, 30, 40, 50, 60, 70, 80, 90, 95, 99)
"""Ten classes spread over the sizes: 197, 123, 77, 48, 30, 19, 12, 7, 6 and 5 images."""

NETWORKS = ("resnet32", "resnet34")

SMALL_CASES = ("mlp", "digits", "transformer")

ALL_CASES = (
    *SMALL_CASES,
    *(f"{network}-class-{number}" for network in NETWORKS for number in reversed(CLASSES)),
)
"""From short to long."""

Fit = Callable[..., None]
"""`fit`, or what stands in its place."""


class Cases:
    """Problems by name, each made when first asked for.

    Args:
        runs: run folders of CIFAR-100-LT networks, one a network.
        data_root: folder of the data set.
        device: where all tensors are.
        fitted: networks made here are trained a little; how much memory a tool takes does not
            depend on it.

    Raises:
        UsageError: two runs of one network, or a run of another one.
        DataError: not a run, or data missing.
    """

    def __init__(
        self,
        runs: Sequence[Path] = (),
        *,
        data_root: str | PathLike[str] | None = None,
        device: torch.device | str = "cpu",
        fitted: bool = True,
    ) -> None:
        self.device = torch.device(device)
        self._fit = fit if fitted else _leave
        self._targets: dict[str, Target] = {}
        for path in runs:
            folder = RunFolder(path)
            network = folder.recipe()["model"]["name"]
            if network not in NETWORKS or network in self._targets:
                raise UsageError(
                    f"{path}: a {network}; give one run of each of {' and '.join(NETWORKS)}"
                )
            self._targets[network] = run_target(folder, device=device, data_root=data_root)
        self._made: dict[str, tuple[nn.Module, str]] = {}
        # One for all: a traced program belongs to a network and a criterion.
        self._criterion = nn.CrossEntropyLoss()

    def problem(self, name: str) -> Problem:
        """The problem of this name, its model shared with the others of its network.

        Raises:
            UsageError: no such case.
        """
        network, _, number = name.partition("-class-")
        if network in NETWORKS and number.isdecimal() and int(number) < 100:
            return self._of_class(name, network, int(number))
        if name in _MAKERS:
            return _MAKERS[name](self.device, self._fit)
        known = [*_MAKERS, *(f"{network}-class-C" for network in NETWORKS)]
        raise UsageError(f"case {name!r}: expected one of {', '.join(known)}")

    def _of_class(self, name: str, network: str, number: int) -> Problem:
        # More images than this at a time are too many for the tools that keep a graph of each.
        batch_size = {"resnet32": 500, "resnet34": 125}[network]
        if (target := self._targets.get(network)) is not None:
            indices = (target.samples.targets == number).nonzero().flatten()
            inputs, labels = target.samples.inputs(indices), target.samples.targets[indices]
            model, identity = target.model, target.identity
            source = f"CIFAR-100-LT, run {identity['run']}, epoch {identity['epoch']}"
        else:
            if network not in self._made:
                self._made[network] = _stand_in(network, self.device, self._fit)
            model, source = self._made[network]
            inputs, labels = _images(number, self.device)
        even = -(-len(labels) // -(-len(labels) // batch_size))
        return Problem(
            name, model, self._criterion, inputs, labels.to(self.device), source,
            None if even >= len(labels) else even,
        )  # fmt: skip


def fit(model: nn.Module, inputs: Tensor, targets: Tensor, *, steps: int, eta: float) -> None:
    """Some steps of SGD with momentum on batches of 64 in a fixed order; leaves eval mode."""
    optimizer = torch.optim.SGD(model.parameters(), lr=eta, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(targets), (min(64, len(targets)),), generator=generator)
        chosen = chosen.to(targets.device)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
    optimizer.zero_grad()
    model.eval()


def _leave(model: nn.Module, *_: Tensor, **__: float) -> None:
    model.eval()


def _images(number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random images in the shapes and counts of CIFAR-100-LT: a mean for each class, and noise."""
    count = class_counts(num_classes=100, largest=500, imbalance_factor=100.0)[number]
    generator = torch.Generator().manual_seed(number)
    mean = torch.randn(3, 8, 8, generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    noise = torch.randn(count, 3, 32, 32, generator=generator)
    return (0.5 * mean + noise).to(device), torch.full((count,), number, device=device)


def _stand_in(network: str, device: torch.device, fit: Fit) -> tuple[nn.Module, str]:
    steps = 40 if network == "resnet32" else 8
    model = build_model(network, num_classes=100, in_channels=3, seed=0).to(device)
    parts = [_images(number, device) for number in range(100)]
    inputs, targets = (torch.cat(column) for column in zip(*parts, strict=True))
    fit(model, inputs, targets, steps=steps, eta=0.01)
    return model, f"random images in the shapes of CIFAR-100-LT, {steps} steps of SGD"


class _Transformer(nn.Module):
    """A two-layer encoder over tokens, and a linear classifier of its mean."""

    def __init__(self, *, tokens: int, classes: int, width: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, activation="gelu"
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.encoder(self.embedding(tokens) + self.position)
        logits: Tensor = self.classifier(hidden.mean(1))
        return logits


def _mlp(device: torch.device, fit: Fit) -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(),
                              nn.Linear(16, 4)).to(device)  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    targets = (torch.arange(256) % 4).to(device)
    inputs = torch.randn(256, 16, generator=generator).to(device)
    inputs[:, :4] += nn.functional.one_hot(targets, 4)
    fit(model, inputs, targets, steps=100, eta=0.05)
    return Problem("mlp", model, nn.CrossEntropyLoss(), inputs, targets, "random points, 4 classes")


def _digits(device: torch.device, fit: Fit) -> Problem:
    data = load_data("digits", imbalance_factor=20.0).to(device)
    everything = torch.arange(len(data.train))
    inputs, labels = data.train.normalised(everything), data.train.labels
    model = build_model("resnet8", num_classes=10, in_channels=1, seed=0).to(device)
    fit(model, inputs, labels, steps=300, eta=0.02)
    return Problem(
        "digits", model, nn.CrossEntropyLoss(), inputs, labels,
        "the bundled digits, IF = 20, all training images, ResNet-8, 300 steps of SGD",
    )  # fmt: skip


def _transformer(device: torch.device, fit: Fit) -> Problem:
    generator = torch.Generator().manual_seed(2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _Transformer(tokens=32, classes=8, width=64, length=16).to(device)
    inputs = torch.randint(32, (128, 16), generator=generator).to(device)
    # The class is that of the most frequent eighth of the alphabet: learnt in a few steps.
    targets = nn.functional.one_hot(inputs // 4, 8).sum(1).argmax(1)
    fit(model, inputs, targets, steps=150, eta=0.05)
    return Problem(
        "transformer", model, nn.CrossEntropyLoss(), inputs, targets,
        "random tokens, 8 classes, 2 layers of width 64, 150 steps of SGD",
    )  # fmt: skip


_MAKERS: dict[str, Callable[[torch.device, Fit], Problem]] = {
    "mlp": _mlp,
    "digits": _digits,
    "transformer": _transformer,
}
