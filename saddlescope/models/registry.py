"""Networks by name, with weights that depend on the seed and on nothing else."""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import nn

from saddlescope.errors import UsageError, unknown
from saddlescope.models.cosine import CosineClassifier
from saddlescope.models.group_norm import replace_batch_norm
from saddlescope.models.networks import resnet8, resnet20, resnet32, resnet34, resnet50, resnext50
from saddlescope.models.scaled import ScaledClassifier
from saddlescope.models.two_layer_linear import TwoLayerLinear

MODELS: Final[Mapping[str, Callable[..., nn.Module]]] = {
    "resnet8": resnet8,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnext50": resnext50,
    "two-layer-linear": TwoLayerLinear,
}
"""Name to factory; each takes the keywords `num_classes` and `in_channels`."""


CLASSIFIERS: Final[Mapping[str, Callable[[int, int], nn.Module] | None]] = {
    "linear": None,
    "cosine": CosineClassifier,
    "scaled": ScaledClassifier,
}
"""Kinds of last layer, by the factory that takes the network's own place."""

NORMS: Final = ("batch", "group")
"""Kinds of normalisation."""


def build_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int,
    seed: int,
    classifier: str = "linear",
    norm: str = "batch",
) -> nn.Module:
    """Build a network on the CPU, in float32, with He-initialised weights.

    The weights are drawn on the CPU generator, so a seed means the same numbers on every
    machine; the random state of CPU and GPU is left as it was.

    Args:
        name: a key of `MODELS`.
        num_classes: size of the output, at least 2.
        in_channels: channels of the images, at least 1.
        seed: seed of the weights, at least 0.
        classifier: the last layer: "linear", "cosine" without lengths and without a bias, or
            "scaled", a linear one whose rows have factors.
        norm: "batch", or "group" for GroupNorm in its place.

    Raises:
        UsageError: an unknown name, or a number out of its range.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    for argument, value, least in (
        ("num_classes", num_classes, 2),
        ("in_channels", in_channels, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise UsageError(f"{argument}={value}: {name} needs at least {least}")
    if classifier not in CLASSIFIERS:
        raise UsageError(f"classifier={classifier!r}: choose from {', '.join(CLASSIFIERS)}")
    if norm not in NORMS:
        raise UsageError(f"norm={norm!r}: choose from {', '.join(NORMS)}")
    # torch.manual_seed would also reseed every GPU, which fork_rng(devices=[]) does not undo.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model = MODELS[name](num_classes=num_classes, in_channels=in_channels)
        if norm == "group":
            replace_batch_norm(model)
        replacement = CLASSIFIERS[classifier]
        if replacement is not None:
            last = model.get_submodule("fc")
            assert isinstance(last, nn.Linear)
            model.set_submodule("fc", replacement(last.in_features, num_classes))
        return model
