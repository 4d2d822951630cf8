"""Is the loss one fixed function of w: the same at every call, and however its samples are split?

Every product of an operator is a sum over batches, in several passes, some of them over parts of
batches. So the loss is evaluated once more, from another random state and with one batch in two
halves. Where it differs, the cause is looked for.
"""

import torch

from saddlescope.curvature.checks import causes
from saddlescope.curvature.memory import is_out_of_memory
from saddlescope.curvature.objective import (
    FixedBatches,
    Objective,
    exact_arithmetic,
    held_attributes,
    untouched,
)
from saddlescope.errors import OperatorError, SaddlescopeError

FEW = 4
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
    if not _close(objective, again, expected):
        _explain(objective, expected, again)


def verify_source(objective: Objective) -> None:
    """Note whether the data change from reading to reading, or refuse them; see `Objective`."""
    source = objective.source
    objective.judge_data(changes=isinstance(source, FixedBatches) and source.changes())


def verify_few(objective: Objective) -> None:
    """Hold a few samples to several random states, and to a second call of the model.

    Raises:
        OperatorError: their loss differs; says why.
    """
    few = evaluable(objective, FEW)
    if few is None:
        return
    few = few.with_gradients()
    values = [_loss(few, seed) for seed in _SEEDS]
    for value in values[1:]:
        if not _close(few, value, values[0]):
            _refuse_randomness(few, values[0], value)
    _verify_state(few, objective)


def _verify_state(few: Objective, objective: Objective) -> None:
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
    if not (moved or changed) or _close(few, second, first):
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
    if few is None:
        return None
    try:
        few.loss()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return objective.few(objective.largest)
    return few


def _loss(objective: Objective, seed: int, *, split: bool = False) -> float:
    """L(w) from a random state of its own."""
    with untouched(objective.model), exact_arithmetic():
        mine = 0.0
        for batch in objective.batches(split=split):
            torch.manual_seed(seed)
            mine += float(objective.value(batch))
        return objective.total(mine)


def _close(objective: Objective, one: float, two: float) -> bool:
    tolerance = 1e3 * torch.finfo(objective.vector.dtype).eps * max(1.0, abs(two))
    return abs(one - two) <= tolerance


def _explain(objective: Objective, expected: float, again: float) -> None:
    """Find out why a second evaluation gave another loss; raises unless it can be helped."""
    with_gradients = objective.with_gradients()
    if _close(objective, _loss(with_gradients, _SEEDS[0], split=True), expected):
        objective.quiet = False
        objective.note(
            f"without gradients the model is another function (its loss {again:.9g} instead of "
            f"{expected:.9g}): it was evaluated with gradients throughout, as in training"
        )
        return
    exact = with_gradients
    one, two = _loss(exact, _SEEDS[0]), _loss(exact, _SEEDS[1])
    if not _close(exact, one, two):
        _refuse_randomness(exact, one, two)
    if not _close(exact, one, expected):
        raise OperatorError(
            f"the loss was {expected:.9g} when the operator was built and is {one:.9g} now, with "
            "the same parameters and buffers: the samples, the criterion or something else that "
            "the model reads changed; build it anew"
        )
    words = (
        "the loss of a batch is not the weighted mean of its halves' "
        f"(L = {expected:.9g}, and {again:.9g} with one batch in halves)"
    )
    cause = causes.mixing_layer(exact)
    if cause is None and objective.keep_whole():
        objective.note(
            f"{words}: all samples were evaluated as one batch, and the matrix is that of its loss"
        )
        return
    raise OperatorError(
        f"{words}, so that the matrix would depend on how the samples are split: "
        + (cause or causes.count(exact))
    )


def _refuse_randomness(objective: Objective, one: float, two: float) -> None:
    raise OperatorError(
        f"the same samples gave the loss {one:.9g} and then {two:.9g}, from another random state: "
        "every product would belong to another matrix. "
        + (causes.random_layer(objective, _SEEDS) or "The criterion draws random numbers")
        + ": switch this off in eval mode"
    )
