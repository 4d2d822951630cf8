"""The best setting of a tool for a problem: right on every seed, in the fewest products."""

import hashlib
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.compare.problems import Problem
from benchmarks.compare.tools import Setting, Tool, label
from benchmarks.compare.truth import Truth
from saddlescope.curvature import HessianOperator, Programs

_CONFIRM = 60.0
"""Seconds after which no further seed confirms what a rehearsal found."""


def sweep(problem: Problem, tool: Tool, truth: Truth, seeds: Sequence[int]) -> dict[str, Any]:
    """The setting of a tool that is right on every seed in the fewest products, and all tried.

    Where a tool rehearses, the products are the instrument's float32 ones, remembered: the
    settings then differ in what they make of the same products. What that finds is confirmed with
    the tool's own products, on as many seeds as a minute allows, or is dropped.
    """
    tried: list[dict[str, Any]] = []
    rehearsals = {seed: Rehearsal(problem) for seed in seeds} if tool.rehearses else {}
    right: list[tuple[float, int]] = []

    def products(setting: Setting, *, rehearse: bool) -> float | None:
        """Mean products over the seeds; None if one of them is not right."""
        total, began = 0, time.monotonic()
        for count, seed in enumerate(seeds, start=1):
            multiply = rehearsals[seed] if rehearse else None
            with differentiable(problem):
                answer = tool.ends(problem.fresh(), setting, seed, multiply=multiply)
            top, bottom = truth.errors(answer)
            tried.append(
                {"setting": label(setting), "seed": seed, "rehearsed": rehearse,
                 "products": answer.products, "max_error": top, "min_error": bottom}
            )  # fmt: skip
            if not truth.meets(answer, both=tool.gives_both):
                return None
            total += answer.products
            if not rehearse and tool.rehearses and time.monotonic() - began > _CONFIRM:
                return total / count
        return total / len(seeds)

    settings = tool.settings()
    try:
        for index, setting in enumerate(settings):
            mean = products(setting, rehearse=tool.rehearses)
            if mean is not None:
                right.append((mean, index))
                if tool.ordered:
                    break
        for _, index in sorted(right):
            ordered = settings[index:] if tool.ordered else [settings[index]]
            for setting in ordered:
                if not tool.rehearses or products(setting, rehearse=False) is not None:
                    return {"setting": setting, "tried": tried}
    except Exception as error:  # a tool that cannot take the model says so here
        return {"setting": None, "reason": sentence(error), "tried": tried}
    return {"setting": None, "reason": "no setting of the sweep is right", "tried": tried}


class Rehearsal:
    """The instrument's products, each remembered by the place it was asked for at."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._known: dict[bytes, Tensor] = {}
        self._operator: HessianOperator | None = None

    def __call__(self, vector: Tensor) -> Tensor:
        """H·v."""
        key = hashlib.blake2b(vector.cpu().numpy().tobytes(), digest_size=16).digest()
        if key not in self._known:
            if self._operator is None:
                problem = self._problem.fresh()
                self._operator = HessianOperator(
                    problem.model, problem.criterion, problem.batches(),
                    programs=Programs("auto"),
                )  # fmt: skip
            self._known[key] = self._operator.matvec(vector).clone()
        return self._known[key].clone()


def differentiable(problem: Problem, *, attention: bool = True) -> AbstractContextManager[Any]:
    """Attention in its differentiable form, where the network has any."""
    has_attention = any("attn" in name for name, _ in problem.model.named_modules())
    if attention and has_attention:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def sentence(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
