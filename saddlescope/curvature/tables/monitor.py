"""Curvature along a training run: one line in anybody's loop, warm-started from check to check.

    monitor = CurvatureMonitor(criterion, dataset, groups=("all", "tail"), every=5)
    for epoch in range(epochs):
        ...
        monitor(model, epoch)
    monitor.frame()

Nothing of the training changes: mode, buffers, gradients and random states are left as they were.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Unpack

import pandas as pd
import torch
from torch import Tensor, nn

from saddlescope.curvature.objective import (
    BatchLoss,
    Criterion,
    Groups,
    as_samples,
    select_subsets,
    untouched,
)
from saddlescope.curvature.tables.spectra import (
    RowOptions,
    SpectrumRow,
    counted_rows,
    measure_operator,
    plan_programs,
    row_options,
    subset_operator,
)
from saddlescope.errors import UsageError

_V_MIN_WEIGHT = 3.0
"""Of v_min in a guess, beside 1 of v_max: λ_min converges last, inside a cluster more often."""


class CurvatureMonitor:
    """Measure chosen classes and groups every few epochs or steps.

    Args:
        criterion: see `Objective`.
        dataset: data loader, batches, tensors or items, see `as_samples`.
        groups: see `Grouping`: names, a key of the batch, a function of a sample, positions.
        classes: class numbers, "all" or "none".
        every: epochs, or steps, between two checks; number 0 is one.
        unit: what is counted.
        warm: start each check from the last one's eigenvectors.
        **options: see `measure_subset`; the seed is that of the fresh part of the start vectors.

    Attributes:
        rows: every row so far, as dicts with an `epoch` or a `step`.
    """

    def __init__(
        self,
        criterion: Criterion,
        dataset: Any,
        *,
        groups: Groups = ("all",),
        classes: Literal["all", "none"] | Sequence[int] = "none",
        every: int = 1,
        unit: Literal["epoch", "step"] = "epoch",
        warm: bool = True,
        **options: Unpack[RowOptions],
    ) -> None:
        if every < 1:
            raise UsageError(f"every = {every}: expected at least 1 {unit}")
        self.criterion = criterion
        whole = isinstance(criterion, BatchLoss)
        self.samples = as_samples(dataset, groups=groups, whole=whole)
        self.subsets = select_subsets(self.samples, classes=classes, groups=groups)
        self.every, self.unit, self.warm = every, unit, warm
        self.matrix, self.stop, self.search = row_options(options)
        self.rows: list[dict[str, Any]] = []
        self._guesses: dict[str, Tensor] = {}

    def __call__(self, model: nn.Module, number: int) -> list[SpectrumRow]:
        """Measure if this epoch or step is due; the model may be in train mode.

        Returns:
            The new rows, none if it is not due.
        """
        if number % self.every:
            return []
        found = []
        with untouched(model):
            model.eval()
            if self.matrix.programs is None:
                programs = plan_programs(
                    model,
                    self.criterion,
                    self.samples,
                    self.subsets,
                    strategy=self.matrix.strategy,
                )
                self.matrix = replace(self.matrix, programs=programs)
            for subset in counted_rows(self.samples, self.subsets):
                key = f"{subset.kind}/{subset.name}"
                built = subset_operator(model, self.criterion, self.samples, subset, self.matrix)
                guess = self._guesses.get(key)
                if guess is not None and len(guess) != built.matrix.size:
                    guess = None  # other parameters are trainable now
                # Another fresh part each time: the last check's vectors depend on the last one.
                search = replace(
                    self.search,
                    seed=self.search.seed + number,
                    warm_start=guess,
                    eigenvectors=self.warm,
                )
                row = measure_operator(built, subset, self.stop, search)
                if self.warm and row.ends.eigenvectors is not None:
                    v_max, v_min = row.ends.eigenvectors
                    self._guesses[key] = v_max + _V_MIN_WEIGHT * v_min
                self.rows.append({self.unit: number, **row.columns()})
                found.append(row)
        return found

    def frame(self) -> pd.DataFrame:
        """Return all rows so far, one a check and subset."""
        return pd.DataFrame(self.rows)

    def settings(self) -> dict[str, Any]:
        """Return what it measures and how often, as plain data."""
        return {"subsets": [subset.name for subset in self.subsets], "every": self.every}

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the next check starts from: a mixture of v_max and v_min by subset."""
        return dict(self._guesses)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict`, so that a resumed run measures what an unbroken one does."""
        self._guesses = {key: torch.as_tensor(value) for key, value in state.items()}
