"""Bring your own network: `--model package.module:factory --data package.module:dataset`."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saddlescope.curvature.samples import Samples, as_samples
from saddlescope.errors import DataError, UsageError
from saddlescope.measurement.target import Target
from saddlescope.training import load_checkpoint, weights_digest
from saddlescope.training.checkpoints import load_weights


def foreign_target(
    model: str,
    data: str,
    *,
    checkpoint: Path | None = None,
    split: str = "train",
    device: torch.device | str = "cpu",
) -> Target:
    """Build a target from import paths.

    Args:
        model: "package.module:factory"; the factory takes no argument and returns a module.
        data: "package.module:dataset"; a data set (see `curvature.samples.as_samples`), or a
            function without arguments that returns one.
        checkpoint: weights to load: `torch.save`d tensors or `.safetensors`; None keeps what the
            factory returns.
        split: only a word for the table.
        device: where to compute.

    Raises:
        UsageError: nothing importable under that name, or it is not what it should be.
        DataError: a checkpoint that is not this model's.
    """
    network = _load(model, "--model")()
    if not isinstance(network, nn.Module):
        raise UsageError(f"--model {model}: returned {type(network).__name__}, not a torch module")
    if checkpoint is not None:
        load_weights(network, load_checkpoint(checkpoint), origin=str(checkpoint))
    dataset = _load(data, "--data")
    if callable(dataset) and not hasattr(dataset, "__getitem__"):
        dataset = dataset()
    network = network.to(device).eval()
    return Target(
        model=network,
        criterion=nn.CrossEntropyLoss(),
        samples=_checked(as_samples(dataset), data),
        identity={
            "run": model,
            "method": "",
            "split": split,
            "criterion": "ce",
            "epoch": None,
            "checkpoint": checkpoint.name if checkpoint else "",
            "digest": weights_digest(network.state_dict()),
        },
    )


def _load(path: str, option: str) -> Any:
    module_name, separator, attribute = path.partition(":")
    if not separator or not module_name or not attribute:
        raise UsageError(f"{option} {path}: expected package.module:name")
    # A console script does not have the current folder on its path; `python -m` does.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UsageError(
            f"{option} {path}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise UsageError(f"{option} {path}: {module_name} has no {attribute!r}") from None


def _checked(samples: Samples, origin: str) -> Samples:
    if len(samples.targets) == 0:
        raise DataError(f"--data {origin}: the data set is empty")
    if int(samples.targets.min()) < 0:
        raise DataError(f"--data {origin}: class numbers must be >= 0")
    return samples
