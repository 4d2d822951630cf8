"""Products of an objective's curvature matrix, batch by batch, kept in memory while they fit.

One budget decides: the first batches whose linearisations fit are retained, the rest are streamed.
Those that are differentiated twice are retained as one, so that micro-batches take no more memory
than one batch of all their samples.
Should memory run out all the same, nothing is retained from then on; should it run out again,
batches are halved, down to single samples. The sum stays exactly normalised, so this changes
numbers by rounding only.
"""

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from saddlescope.curvature.memory import OVERWRITTEN, available_bytes, is_out_of_memory
from saddlescope.curvature.objective import (
    Batch,
    Objective,
    Tensors,
    exact_arithmetic,
    untouched,
)
from saddlescope.curvature.products.linearisations import Linearisation, Lineariser
from saddlescope.curvature.products.replay import free_recordings
from saddlescope.errors import MemoryLimitError, OperatorError

log = logging.getLogger("saddlescope.curvature")
_Result = TypeVar("_Result")


class BatchProducts:
    """Map v ↦ M·v, the sum of the batches' terms, with the gradient and the loss as by-products.

    Args:
        objective: what to differentiate.
        memory_budget: bytes that linearisations may occupy; 0 streams everything.
        linearise: how a batch is linearised, and so which matrix M is.

    Attributes:
        loss: L(w).
        gradient: ∇L(w), shape (n,).
        retained: share of the objective whose linearisation is kept, in [0, 1].
        nbytes: what is kept.
        cost: gradients a product, by operation count.
        exact: whether every branch is that of a float64 forward pass, see `Linearisation`.
        joins: whether batches are retained as one, see `Linearisation`.
        built: gradients that building took: the first batch is tried alone before several are one.
    """

    def __init__(self, objective: Objective, *, memory_budget: int, linearise: Lineariser) -> None:
        self.objective = objective
        self._linearise = linearise
        self._budget = memory_budget
        self._kept: list[Linearisation] = []
        self._kept_batches, self._joining, self.joins = 0, False, False
        # Of both: a step of the optimiser moves the original, and a copy would not show it.
        self._tensors = [Tensors(objective.model)]
        if objective.original is not objective.model:
            self._tensors.append(Tensors(objective.original))
        self.within_memory(self._gather)

    def __call__(self, vector: Tensor) -> Tensor:
        """M·v for v of shape (n,)."""
        self.refuse_changes()
        return self.within_memory(lambda: self._product(vector))

    def refuse_changes(self) -> None:
        """Refuse to answer for a model that is not what it was.

        Raises:
            OperatorError: a parameter or buffer was written to or replaced; names it.
        """
        for tensors in self._tensors:
            name = tensors.changed()
            if name is not None:
                raise OperatorError(
                    f"{name} changed after the operator was built (an optimiser step, a loaded "
                    "checkpoint, BatchNorm in train mode?): its products would be those of the old "
                    "weights; build it anew"
                )

    def _gather(self) -> None:
        """Linearise every batch once: loss, gradient, and what is kept."""
        objective, vector = self.objective, self.objective.vector
        gradient = torch.zeros(vector.size, dtype=vector.dtype, device=vector.device)
        loss = torch.zeros((), dtype=torch.float64, device=vector.device)
        kept = total = cost = streamed = 0.0
        self._tried = 0.0
        full = self._budget <= 0
        self.nbytes, self.exact, self._kept_batches = 0, True, 0
        with untouched(objective.model), exact_arithmetic(), torch.enable_grad():
            for made, group in self._linearised():
                loss += made.loss.detach()
                gradient += vector.flatten([g if g is None else g.detach() for g in made.gradient])
                share = sum(batch.share for batch in group)
                # Once full, full for good: `_product` streams what comes after the kept ones, so
                # these must be the first.
                full = full or self.nbytes + made.nbytes > self._budget
                if not full:
                    self._kept.append(made)
                    self._kept_batches += len(group)
                    self.nbytes += made.nbytes
                    kept += share
                total += share
                self.exact = self.exact and made.exact
                cost += share * (made.streamed_cost if full else made.retained_cost)
                streamed += share * made.streamed_cost
                del made  # before the next one is made, so that two never stand side by side
        # Sums over ranks: the cost of a row is that of all of them, not of the one that asks.
        kept, total, cost, streamed, tried = objective.ranks.totals(
            kept, total, cost, streamed, self._tried
        )
        self.exact = objective.ranks.all(self.exact)
        self.retained, self.cost, self._streamed_cost = kept / total, cost / total, streamed / total
        self.built = 1.0 + tried / total
        self.loss, self.gradient = objective.with_penalty(loss.item(), gradient)

    def _linearised(self) -> Iterator[tuple[Linearisation, list[Batch]]]:
        """Every batch linearised; the first ones as one, as many as are sure to fit."""
        objective, batches = self.objective, self.objective.batches()
        first = next(batches, None)
        if first is None:
            return
        made, group = self._linearise(objective, first), [first]
        self.joins = made.joins
        if made.joins:
            # What it takes grows at most in proportion to the samples.
            room = self._budget * first.count / made.nbytes if made.nbytes else 0.0
            for batch in batches:
                if sum(one.count for one in group) + batch.count > room:
                    batches = itertools.chain([batch], batches)
                    break
                group.append(batch)
        if len(group) > 1:
            kind: Any = type(made)
            self._joining, self._tried = True, first.share
            del made
            try:
                made = kind(objective, *group)
            except RuntimeError as error:
                if OVERWRITTEN not in str(error):
                    raise
                made = cast(
                    "Any", None
                )  # one batch writes over what another one's derivative needs
            self._joining = False
            # None, or of samples of another size than the first ones.
            if made is None or made.nbytes > self._budget:
                del made
                made, (_, *rest), group = self._linearise(objective, first), group, [first]
                batches = itertools.chain(rest, batches)
        yield made, group
        del made
        for batch in batches:
            yield self._linearise(objective, batch), [batch]

    def _product(self, vector: Tensor) -> Tensor:
        parameters = self.objective.vector
        parts = parameters.split(vector)
        # The first term is the sum's own memory: beside 85 MB of weights and a few images, another
        # vector, cleared and added to, shows.
        total: Tensor | None = None
        with exact_arithmetic():
            for made in self._kept:
                total = _added(total, parameters.flatten(made.apply(parts)))
        if self.retained < 1.0:
            with untouched(self.objective.model), exact_arithmetic(), torch.enable_grad():
                for batch in self.objective.batches(after=self._kept_batches):
                    made = self._linearise(self.objective, batch)
                    total = _added(total, parameters.flatten(made.apply(parts)))
                    del made  # before the next one is made
        if total is None:  # a rank without samples
            total = torch.zeros_like(vector)
        # The L2 term once, not once a rank.
        if self.objective.weight_decay and self.objective.ranks.rank == 0:
            total.add_(vector, alpha=self.objective.weight_decay)
        return self.objective.ranks.total(total)

    def within_memory(self, work: Callable[[], _Result]) -> _Result:
        """Do the work; where memory runs out, do it again with less, as often as it takes."""
        while True:
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Not inside the handler: there the traceback keeps alive what ran out of memory.
            self._take_less()

    def _take_less(self) -> None:
        """Retain nothing, or, where nothing is retained, halve the batches.

        Raises:
            MemoryLimitError: single samples do not fit either.
        """
        device, held = self.objective.vector.device, bool(self._kept) or self._joining
        self._kept.clear()
        self._kept_batches, self._budget, self._joining = 0, 0, False
        free_recordings()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if held:
            # Unset while the first pass is still under way; that one begins anew.
            self.nbytes, self.retained = 0, 0.0
            self.cost = getattr(self, "_streamed_cost", 0.0)
            log.warning("out of memory: nothing is retained between products from here on")
        elif (chunk := self.objective.halve()) is not None:
            log.warning("out of memory: batches of at most %d samples from here on", chunk)
        else:
            vector = self.objective.vector.size * self.objective.vector.dtype.itemsize
            raise MemoryLimitError(
                f"out of memory on {device} with nothing retained and batches of "
                f"{self.objective.largest} samples that cannot be divided: "
                f"{available_bytes(device) / 2**20:.3g} MiB are free, a vector of the Krylov basis "
                f"takes {vector / 2**20:.3g} MiB; a smaller basis (max_matvecs, basis_memory) "
                "leaves more to a product, as do smaller inputs or fewer parameters"
            )


def _added(total: Tensor | None, term: Tensor) -> Tensor:
    """The sum, in the memory of its first term."""
    return term if total is None else total.add_(term)
