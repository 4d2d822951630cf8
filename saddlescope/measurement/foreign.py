"""Bring your own network: `--model package.module:factory --data package.module:dataset`."""

import hashlib
import importlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.curvature import (
    BatchLoss,
    Groups,
    SampleBatches,
    Samples,
    as_samples,
    batch_of,
    check_call,
    described,
    exact_arithmetic,
    first_line,
    map_tensors,
    samples_checksum,
    uncompiled,
    untouched,
)
from saddlescope.errors import DataError, SaddlescopeError, UsageError
from saddlescope.measurement.target import Target
from saddlescope.training import load_checkpoint, load_weights, weights_digest

log = logging.getLogger("saddlescope.measurement")


def foreign_target(
    model: str,
    data: str,
    *,
    checkpoint: Path | None = None,
    entry: str | None = None,
    criterion: str = "ce",
    groups: Groups = (),
    device: torch.device | str = "cpu",
) -> Target:
    """Build a target from import paths.

    Inputs are converted to the network's floating-point type, a compiled network is measured as it
    was written, and of a network that returns `logits` in a mapping or an object these are taken;
    each is said in the log.

    Args:
        model: "package.module:factory"; a module, or a function without arguments that returns
            one.
        data: "package.module:dataset"; a data set or a data loader (see `as_samples`), or a
            function without arguments that returns one.
        checkpoint: weights to load, a file or a folder (see `load_checkpoint`); None keeps what the
            factory returns.
        entry: where in it the weights stand, see `load_weights`.
        criterion: "ce", or "package.module:criterion"; a function of outputs and targets, a
            `BatchLoss`, or a class that is made without arguments.
        groups: those that will be asked for, see `as_samples`.
        device: where to compute.

    Raises:
        UsageError: nothing importable under that name, or it fails, or is not what it should be;
            or the network cannot be called on the data, or returns no class scores.
        DataError: a checkpoint that is not this model's, or a data set that fails, or has classes
            that the network has no output for.
    """
    network = _network(model)
    if checkpoint is not None:
        content = load_checkpoint(checkpoint, strict=False)
        load_weights(network, content, origin=str(checkpoint), entry=entry)
    used = None if criterion == "ce" else _criterion_named(criterion)
    dataset = imported(data, "--data")
    if isinstance(dataset, type) or (callable(dataset) and not hasattr(dataset, "__getitem__")):
        dataset = _called(dataset, f"--data {data}", DataError)
    network = network.to(device).eval()
    read = _checked(_read(dataset, data, groups=groups, whole=isinstance(used, BatchLoss)), data)
    samples = _in_the_type_of(network, read)
    if used is None:
        used = _cross_entropy(network, samples, model)
    elif not isinstance(used, BatchLoss):
        check_call(network, used, *_first(network, samples))
    return Target(
        model=network,
        criterion=used.to(device) if isinstance(used, nn.Module) else used,
        samples=samples,
        identity={
            "run": model,
            "method": "",
            "split": "train",
            "criterion": _criterion_key(criterion, used),
            "epoch": None,
            "checkpoint": checkpoint.name if checkpoint else "",
            "digest": f"{_network_digest(network)}-{samples_checksum(read)}",
        },
    )


def _criterion_key(path: str, criterion: Any) -> str:
    """What tells two criteria apart: the path, and a digest of tensors that one has (weights)."""
    own = criterion.state_dict() if isinstance(criterion, nn.Module) else {}
    return f"{path}#{weights_digest(own)[:8]}" if own else path


def _network_digest(network: nn.Module) -> str:
    """What tells two networks apart, but for the code of a `forward`.

    Weights and buffers, modules as they print, and what is trainable.
    """
    digest = hashlib.sha256(weights_digest(network.state_dict()).encode())
    digest.update(re.sub(r" at 0x[0-9a-f]+", "", repr(network)).encode())
    digest.update(repr([n for n, p in network.named_parameters() if p.requires_grad]).encode())
    return digest.hexdigest()[:12]


class LogitsCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy of what a network returns as "logits", in a mapping or an object."""

    def forward(self, outputs: Any, targets: Tensor) -> Tensor:
        """Compute the loss of the logits, shape (N, C)."""
        return super().forward(_logits(outputs), targets)


def _logits(outputs: Any) -> Any:
    if isinstance(outputs, Mapping):
        return outputs.get("logits")
    return getattr(outputs, "logits", None)


@dataclass(frozen=True)
class _Converted:
    """Samples with their floating-point inputs in one type."""

    samples: Samples
    dtype: torch.dtype

    @property
    def targets(self) -> Tensor:
        return self.samples.targets

    @property
    def groups(self) -> Mapping[str, Sequence[int]]:
        return getattr(self.samples, "groups", {})

    @property
    def labels(self) -> Any:
        return getattr(self.samples, "labels", {})

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(getattr(self.samples, "notes", ()))

    @property
    def fixed(self) -> bool:
        return bool(getattr(self.samples, "fixed", False))

    def batches(self, indices: Tensor, batch_size: int) -> Iterator[Any]:
        for batch in SampleBatches(self.samples, indices, batch_size):
            yield _converted(batch, self.dtype)

    def inputs(self, indices: Tensor) -> Any:
        return _converted(self.samples.inputs(indices), self.dtype)


def _converted(batch: Any, dtype: torch.dtype) -> Any:
    return map_tensors(batch, lambda t: t.to(dtype) if t.is_floating_point() else t)


def _network(model: str) -> nn.Module:
    """What `--model` names, as it was written."""
    network = imported(model, "--model")
    if not isinstance(network, nn.Module):
        if not callable(network):
            raise UsageError(f"--model {model}: is a {type(network).__name__}, not a function")
        network = _called(network, f"--model {model}", UsageError)
    if not isinstance(network, nn.Module):
        raise UsageError(f"--model {model}: returned {type(network).__name__}, not a torch module")
    if (plain := uncompiled(network)) is not network:
        log.info("--model %s: compiled or wrapped; measured as it was written", model)
    return plain


def imported(path: str, option: str) -> Any:
    """Import what "package.module:name" names, also from the current folder.

    Raises:
        UsageError: there is nothing importable under that name; says the option.
    """
    module_name, separator, attribute = path.partition(":")
    if not separator or not module_name or not attribute:
        words = "ce, training or " if option == "--criterion" else ""
        raise UsageError(f"{option} {path}: expected {words}package.module:name")
    # A console script does not have the current folder on its path; `python -m` does.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{option} {path}: importing {module_name} failed: {first_line(error)}{_where(error)}"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise UsageError(f"{option} {path}: {module_name} has no {attribute!r}") from None


def _called(function: Callable[[], Any], name: str, kind: type[SaddlescopeError]) -> Any:
    """What a function without arguments returns.

    Raises:
        SaddlescopeError: of the kind; it failed.
    """
    try:
        return function()
    except SaddlescopeError:
        raise
    except (Exception, SystemExit) as error:
        raise kind(f"{name}: calling it failed: {first_line(error)}{_where(error)}") from error


def _where(error: BaseException) -> str:
    """The place in the user's own files that raised an error, in words."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if frame.filename.startswith(os.getcwd() + os.sep)
        and "site-packages" not in frame.filename
        and frame.filename != __file__
    ]
    return f" ({os.path.relpath(own[-1].filename)}, line {own[-1].lineno})" if own else ""


def _read(dataset: Any, origin: str, *, groups: Groups, whole: bool) -> Samples:
    """The data set as samples, its errors with the option in front."""
    try:
        return as_samples(dataset, groups=groups, whole=whole)
    except (UsageError, DataError) as error:
        raise type(error)(f"--data {origin}: {error}") from error


def _checked(samples: Samples, origin: str) -> Samples:
    if len(samples.targets) == 0:
        raise DataError(f"--data {origin}: the data set is empty")
    if _has_classes(samples) and int(samples.targets.min()) < 0:
        raise DataError(f"--data {origin}: class numbers must be >= 0")
    return samples


def _has_classes(samples: Samples) -> bool:
    return samples.targets.dim() == 1 and not samples.targets.is_floating_point()


def _criterion_named(path: str) -> Any:
    """What `--criterion` names; a class is made without arguments."""
    found = imported(path, "--criterion")
    if isinstance(found, type):
        found = _called(found, f"--criterion {path}", UsageError)
    if not callable(found):
        raise UsageError(f"--criterion {path}: is a {type(found).__name__}, not a function")
    return found


def _first(network: nn.Module, samples: Samples) -> tuple[Any, Any]:
    """The first sample on the network's device, as inputs and targets."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    batch = batch_of(samples, torch.zeros(1, dtype=torch.int64))
    inputs, targets = map_tensors(batch, lambda tensor: tensor.to(device))
    return inputs, targets


def _in_the_type_of(network: nn.Module, samples: Samples) -> Samples:
    """The samples, converted where the network has another floating-point type."""
    wanted = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
    found: set[torch.dtype] = set()

    def see(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            found.add(tensor.dtype)
        return tensor

    map_tensors(batch_of(samples, torch.zeros(1, dtype=torch.int64)), see)
    if wanted is None or found <= {wanted}:
        return samples
    words = [str(dtype).removeprefix("torch.") for dtype in (*found, wanted)]
    log.info("inputs converted from %s to %s, the network's", ", ".join(words[:-1]), words[-1])
    return _Converted(samples, wanted)


def _cross_entropy(network: nn.Module, samples: Samples, origin: str) -> nn.CrossEntropyLoss:
    """Cross-entropy for what the network returns, tried on the first sample.

    Raises:
        UsageError: the network fails on it, or returns something else than class scores.
        DataError: there are classes that it has no output for, or no classes.
    """
    inputs, _ = _first(network, samples)
    with untouched(network), exact_arithmetic():
        # Whatever the network returns has a sum: only its own failure is of interest yet.
        outputs = check_call(network, lambda *_: torch.zeros(()), inputs, None)
    criterion: nn.CrossEntropyLoss = nn.CrossEntropyLoss()
    scores = outputs
    if not isinstance(outputs, Tensor) and isinstance(_logits(outputs), Tensor):
        log.info("--model %s: returns %s; its 'logits' are taken", origin, described(outputs))
        criterion, scores = LogitsCrossEntropy(), _logits(outputs)
    if not isinstance(scores, Tensor) or scores.dim() != 2 or not scores.is_floating_point():
        raise UsageError(
            f"--model {origin}: returned {described(outputs)} for one sample: expected class "
            "scores, a tensor of shape (1, number of classes), or a mapping or an object that has "
            "them as 'logits'; name a factory whose network returns only them, or a loss of your "
            "own with --criterion"
        )
    if not _has_classes(samples):
        raise DataError(
            f"targets are {described(samples.targets)}, and cross-entropy needs class numbers, "
            "integers of shape (N,): convert them (.long()), or name another loss with --criterion"
        )
    highest = int(samples.targets.max())
    if highest >= scores.shape[1]:
        raise DataError(
            f"class number {highest} in the data, but --model {origin} has {scores.shape[1]} "
            f"outputs, for classes 0 to {scores.shape[1] - 1}: count classes from 0, or give the "
            "model more outputs"
        )
    return criterion
