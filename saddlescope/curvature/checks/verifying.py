"""Is the loss one fixed function of w: the same at every call, and however its samples are split?

Every product of an operator is a sum over batches, in several passes, some of them over parts of
batches. So the loss is evaluated once more, from another random state and with one batch in two
halves. Where it differs, the cause is looked for.

That is blind in two ways. In the working precision a loss near 0 has lost what would tell two
values apart; and the halves of a batch with one class in it (sorted data) are alike in what they
weigh. So a few samples from all over the data are held to the same in float64.
"""

from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode  # as torch's own flop counter does
from torch.utils._pytree import tree_leaves

from saddlescope.curvature.checks import causes
from saddlescope.curvature.memory import is_out_of_memory
from saddlescope.curvature.objective import (
    FixedBatches,
    Objective,
    exact_arithmetic,
    held_attributes,
    pair,
    untouched,
)
from saddlescope.errors import OperatorError, SaddlescopeError

FEW = 6
"""Samples that a check of the model is made on."""

_SEEDS = (0xC0FFEE, 0xBEEF, 0xFACADE, 0xDECADE)
"""Random states that the loss is evaluated from. One sum over all samples may hide a small change
by chance, so that a few samples are evaluated from each of them."""


def verify_loss(objective: Objective, expected: float) -> None:
    """Evaluate the loss again and compare.

    Args:
        objective: its notes are added to.
        expected: L(w) as it was when the operator was built.

    Raises:
        OperatorError: it is another one; says why.
    """
    try:
        again = _loss(objective, _SEEDS[0], split=True)
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, SaddlescopeError):
            raise
        again = _loss(objective, _SEEDS[0])
        objective.note(
            "half a batch could not be evaluated, so that it was not tested whether the loss adds "
            f"up over batches ({str(error).partition(chr(10))[0]})"
        )
    if not _close(again, expected, objective.vector.dtype):
        _explain(objective, expected, again)


def verify_source(objective: Objective) -> None:
    """Note whether the data change from reading to reading, or refuse them; see `Objective`."""
    source = objective.source
    objective.judge_data(changes=isinstance(source, FixedBatches) and source.changes())


def verify_few(objective: Objective) -> None:
    """Hold a few samples from all over the data to several random states, a division, and a repeat.

    Raises:
        OperatorError: their loss differs; says why.
    """
    few = objective.spread(min(FEW, objective.chunk or FEW))
    if few is None and isinstance(objective.criterion, FunctionType) and _differ(objective.source):
        objective.note(
            "the criterion was taken for a mean over the samples of a batch, and targets differ in "
            "shape from batch to batch: if its mean is over something else (tokens), say so with "
            "BatchLoss(..., weight=...)"
        )
    if few is None or not _is_evaluable(few):
        few = evaluable(objective, FEW)
    if few is None:
        return
    few, first, dtype = _in_double(few.with_gradients())
    # Where nothing is lost to rounding, one other state shows what is random.
    for seed in _SEEDS[1:2] if dtype == torch.float64 else _SEEDS[1:]:
        if not _close(value := _loss(few, seed), first, dtype):
            _refuse_randomness(few, first, value)
    _verify_state(few, objective, dtype)
    try:
        halved = _loss(few, _SEEDS[0], split=True)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return  # which `verify_loss` has noted
    if not _close(halved, first, dtype):
        _refuse_division(objective, few, first, halved)


def _in_double(few: Objective) -> tuple[Objective, float, torch.dtype]:
    """Some samples' loss in float64 where that can be had, its value, and what rounds it."""
    if few.vector.dtype == torch.float64:
        return _evaluated(few)
    try:
        return _evaluated(few.double())
    except Exception:  # whatever a model's deepcopy or its float64 pass raises
        return _evaluated(few)


def _evaluated(few: Objective) -> tuple[Objective, float, torch.dtype]:
    with _Narrow() as narrow:
        value = _loss(few, _SEEDS[0])
    dtype = few.vector.dtype
    return few, value, torch.float32 if narrow.found and dtype == torch.float64 else dtype


def _differ(batches: Iterable[Any]) -> bool:
    """Whether samples have targets of several shapes, so that no batch could hold all of them."""
    targets = (pair(batch)[1] for batch in batches)
    return len({one.shape[1:] for one in targets if isinstance(one, torch.Tensor)}) > 1


class _Narrow(TorchDispatchMode):
    """See whether anything but a scalar is computed in less than float64."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        self.found |= any(
            isinstance(leaf, torch.Tensor)
            and leaf.is_floating_point()
            and leaf.dtype != torch.float64
            and leaf.dim() > 0
            for leaf in tree_leaves(results)
        )
        return results


def _verify_state(few: Objective, objective: Objective, dtype: torch.dtype) -> None:
    """Refuse buffers that move the loss from call to call; note attributes that do."""
    model = few.model
    with untouched(model), exact_arithmetic(), torch.enable_grad():
        (batch,) = few.batches()
        before = {name: (b, b._version) for name, b in model.named_buffers()}
        with held_attributes(model) as changed:
            first = float(few.batch_loss(batch, hold=False).detach())
            moved = [
                name
                for name, b in model.named_buffers()
                if name not in before or b is not before[name][0] or b._version != before[name][1]
            ]
            second = float(few.batch_loss(batch, hold=False).detach())
    if not (moved or changed) or _close(second, first, dtype):
        return
    if moved:
        raise OperatorError(
            f"{moved[0]} changes with every call, and the loss of the same samples with it "
            f"({first:.9g}, then {second:.9g}): there is no one Hessian; call model.eval() first"
        )
    objective.note(
        f"{changed[0]} is carried from call to call and moves the loss: every batch was evaluated "
        "from what it was when measuring began"
    )


def evaluable(objective: Objective, count: int) -> Objective | None:
    """Return the objective over its first samples, or its first batch if fewer cannot be evaluated.

    Args:
        objective: the whole.
        count: of samples.
    """
    few = objective.few(min(count, objective.chunk or count))
    if few is None or _is_evaluable(few):
        return few
    return objective.few(objective.largest)


def _is_evaluable(few: Objective) -> bool:
    """Whether the loss of some samples alone can be evaluated."""
    try:
        few.loss()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return False
    return True


def _loss(objective: Objective, seed: int, *, split: bool = False) -> float:
    """L(w) from a random state of its own."""
    with untouched(objective.model), exact_arithmetic():
        mine = 0.0
        for batch in objective.batches(split=split):
            torch.manual_seed(seed)
            mine += float(objective.value(batch))
        return objective.total(mine)


def _close(one: float, two: float, dtype: torch.dtype) -> bool:
    """Whether two losses that were computed in a precision may differ by its rounding alone."""
    return abs(one - two) <= 1e3 * torch.finfo(dtype).eps * max(1.0, abs(two))


def _explain(objective: Objective, expected: float, again: float) -> None:
    """Find out why a second evaluation gave another loss; raises unless it can be helped."""
    with_gradients, dtype = objective.with_gradients(), objective.vector.dtype
    if _close(_loss(with_gradients, _SEEDS[0], split=True), expected, dtype):
        objective.quiet = False
        objective.note(
            f"without gradients the model is another function (its loss {again:.9g} instead of "
            f"{expected:.9g}): it was evaluated with gradients throughout, as in training"
        )
        return
    exact = with_gradients
    one, two = _loss(exact, _SEEDS[0]), _loss(exact, _SEEDS[1])
    if not _close(one, two, dtype):
        _refuse_randomness(exact, one, two)
    if not _close(one, expected, dtype):
        raise OperatorError(
            f"the loss was {expected:.9g} when the operator was built and is {one:.9g} now: the "
            "weights were changed unseen (through .data), or the samples, the criterion or "
            "something else that the model reads; build it anew"
        )
    _refuse_division(objective, exact, expected, again)


def _refuse_division(
    objective: Objective, evaluated: Objective, whole: float, halved: float
) -> None:
    """Refuse a loss that depends on how samples are divided; where they need not be, note it.

    Args:
        objective: the loss.
        evaluated: it, or a few of its samples, as it was evaluated.
        whole: its value.
        halved: its value with one batch in halves.

    Raises:
        OperatorError: there are several batches, or a layer mixes samples.
    """
    words = (
        "the loss of a batch is not the weighted mean of its halves' "
        f"(L = {whole:.9g}, and {halved:.9g} with one batch in halves)"
    )
    cause = causes.mixing_layer(evaluated)
    if cause is None and objective.keep_whole():
        objective.note(
            f"{words}: all samples were evaluated as one batch, and the matrix is that of its loss"
        )
        return
    raise OperatorError(
        f"{words}, so that the matrix would depend on how the samples are split: "
        + (cause or causes.count(evaluated))
    )


def _refuse_randomness(objective: Objective, one: float, two: float) -> None:
    raise OperatorError(
        f"the same samples gave the loss {one:.9g} and then {two:.9g}, from another random state: "
        "every product would belong to another matrix. "
        + (causes.random_layer(objective, _SEEDS) or "The criterion draws random numbers")
        + ": switch this off in eval mode"
    )
