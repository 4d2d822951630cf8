"""How ε_g is found: the direction of the ascent, its length, and how often it is looked for.

The plain rule is ε = ρ·g/‖g‖ (Foret et al. 2021). Its relatives change one thing each:

- ASAM (Kwon et al. 2021): ε = ρ·T²g/‖Tg‖ with T = diag|w|, so that scaling weights changes nothing.
- Friendly-SAM (Li et al. 2024): g − σm in place of g, where m is the mean of former gradients,
  m ← λm + (1−λ)g; the first step has m = g and ascends along g, as in the authors' code.
- LookSAM (Liu et al. 2022): the ascent in every k-th step alone. There the part of the gradient at
  w + ε that is orthogonal to g is kept, v = g_s − (⟨g_s,g⟩/‖g‖²)·g, and the steps between descend
  along g + α·(‖g‖/‖v‖)·v.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saddlescope.errors import UsageError
from saddlescope.sharpness.gradients import Gradients
from saddlescope.sharpness.norms import global_norm, inner_product, local

_PREFIX = "sharpness"


@dataclass(frozen=True)
class Ascent:
    """Options of the ascent; the defaults are SAM's.

    Attributes:
        adaptive: scale by |w| (ASAM).
        friendly: σ >= 0 of Friendly-SAM; 0 leaves the gradient as it is.
        decay: λ in [0, 1) of Friendly-SAM.
        every: k >= 1 of LookSAM; 1 ascends in every step.
        reuse: α >= 0 of LookSAM.
        ranks: where processes share a batch, whether ε follows the gradient of all of it ("global")
            or each process that of its own part ("local", as in the SAM paper; no message).

    Raises:
        UsageError: a value outside its range.
    """

    adaptive: bool = False
    friendly: float = 0.0
    decay: float = 0.9
    every: int = 1
    reuse: float = 0.7
    ranks: str = "global"

    def __post_init__(self) -> None:
        if self.ranks not in ("global", "local"):
            raise UsageError(f"ranks = {self.ranks!r}: expected 'global' or 'local'")
        if self.every < 1:
            raise UsageError(f"every = {self.every}: expected a number of steps >= 1")
        if not 0.0 <= self.decay < 1.0:
            raise UsageError(f"decay = {self.decay}: expected a share in [0, 1)")
        if not (0.0 <= self.friendly < float("inf") and 0.0 <= self.reuse < float("inf")):
            raise UsageError("friendly and reuse: expected numbers >= 0")
        if self.remembers and self.ranks == "local":
            raise UsageError("a local ascent goes with neither Friendly-SAM nor LookSAM")

    @property
    def remembers(self) -> bool:
        """Whether a step depends on the gradients of former ones."""
        return self.friendly > 0.0 or self.every > 1


class Memory:
    """What Friendly-SAM and LookSAM keep of former steps, by group and parameter."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Gradients] = {}
        self.steps = 0

    def direction(self, group: str, gradients: Gradients, ascent: Ascent) -> Gradients:
        """The gradients, less σ times the mean of the former ones (Friendly-SAM)."""
        if ascent.friendly == 0.0:
            return gradients
        mean = self.kept.get(("mean", group))
        if mean is None:
            self.kept["mean", group] = [None if g is None else g.clone() for g in gradients]
            return gradients
        found: Gradients = []
        for index, gradient in enumerate(gradients):
            former = mean[index]
            if gradient is None or former is None:
                found.append(gradient)
                mean[index] = former if gradient is None else gradient.clone()
            else:
                found.append(gradient - ascent.friendly * former)
                mean[index] = ascent.decay * former + (1.0 - ascent.decay) * gradient
        return found

    def reuses(self, group: str, ascent: Ascent) -> bool:
        """Whether this step takes the orthogonal part from a former one (LookSAM)."""
        return self.steps % ascent.every != 0 and ("orthogonal", group) in self.kept

    def keep_orthogonal(self, group: str, at_w: Gradients, at_ascent: Gradients) -> None:
        """Keep v = g_s − (⟨g_s,g⟩/‖g‖²)·g."""
        pairs = [(s, g) for s, g in zip(at_ascent, at_w, strict=True) if s is not None]
        both = [(s, g) for s, g in pairs if g is not None]
        along = inner_product([s for s, _ in both], [g for _, g in both])
        square = global_norm([g for _, g in both]).square()
        share = torch.where(square > 0, along / square, torch.zeros_like(square))
        self.kept["orthogonal", group] = [
            s if s is None or g is None else s - share.to(s.dtype) * g
            for s, g in zip(at_ascent, at_w, strict=True)
        ]

    def reused(self, group: str, at_w: Gradients, ascent: Ascent) -> Gradients:
        """G + α·(‖g‖/‖v‖)·v."""
        orthogonal = self.kept["orthogonal", group]
        length = global_norm([v for v in orthogonal if v is not None])
        slope = global_norm([g for g in at_w if g is not None])
        factor = torch.where(length > 0, ascent.reuse * slope / length, torch.zeros_like(length))
        return [
            g if g is None or v is None else g + factor.to(g.dtype) * v
            for g, v in zip(at_w, orthogonal, strict=True)
        ]

    def by_parameter(self, index: int) -> dict[str, Tensor]:
        """What is kept of one parameter, by the names it has in a state_dict."""
        found = {
            f"{_PREFIX}.{kind}.{group}": kept[index] for (kind, group), kept in self.kept.items()
        }
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def load(self, states: Iterable[dict[str, Any]]) -> None:
        """Take what `by_parameter` wrote out of each parameter's state, in their order."""
        self.kept = {}
        states = list(states)
        for index, state in enumerate(states):
            for name in [n for n in state if isinstance(n, str) and n.startswith(_PREFIX + ".")]:
                _, kind, group = name.split(".", 2)
                empty: Gradients = [None] * len(states)
                self.kept.setdefault((kind, group), empty)[index] = state.pop(name)


def displacement(
    parameters: list[Tensor],
    gradients: Gradients,
    rho: float,
    *,
    adaptive: bool,
    guard: bool = False,
) -> tuple[Gradients, Tensor]:
    """ε of every parameter at its present value, and the norm that it was divided by.

    ε is 0 where the norm is 0, without asking the device.

    Args:
        parameters: at w; of a DTensor its local part.
        gradients: of each, or None.
        rho: radius >= 0.
        adaptive: whether to scale by |w|.
        guard: whether ε is to be 0 where the norm is not finite; half-precision ε always is.
    """
    scaled: Gradients = list(gradients)
    if adaptive:
        # Sparse gradients become dense: |w| of the rows that were looked up is not kept sparse.
        scaled = [
            None if g is None else _scaled(g.to_dense() if g.is_sparse else g, p)
            for p, g in zip(parameters, gradients, strict=True)
        ]
    norm = global_norm([g for g in scaled if g is not None])
    scale = rho / norm
    scale = torch.where(torch.isfinite(scale) & torch.isfinite(norm), scale, torch.zeros_like(norm))
    there = [(i, local(g)) for i, g in enumerate(scaled) if g is not None]
    if adaptive:
        there = [(i, g * parameters[i].abs()) for i, g in there]
    found: Gradients = [None] * len(parameters)
    if all(g.layout == torch.strided and g.dtype.itemsize > 2 for _, g in there):
        moves = list(torch._foreach_mul([g for _, g in there], scale)) if there else []
    else:  # ρ/‖g‖ need not fit into half a float, nor does a sparse tensor go with the others
        moves = [_times(g, scale) for _, g in there]
        guard = True
    if guard:  # 0·Inf is NaN
        finite = torch.isfinite(norm)
        moves = [m if m.is_sparse else torch.where(finite, m, torch.zeros_like(m)) for m in moves]
    for (index, _), move in zip(there, moves, strict=True):
        found[index] = move
    return found, norm


def _scaled(gradient: Tensor, parameter: Tensor) -> Tensor:
    """|w|·g, sharded as g is."""
    if local(gradient) is gradient:
        return gradient * parameter.abs()
    whole = torch.empty_like(gradient)
    local(whole).copy_(local(gradient) * parameter.abs())
    return whole


def _times(tensor: Tensor, scale: Tensor) -> Tensor:
    if tensor.layout == torch.strided and tensor.dtype.itemsize <= 2:
        return tensor.float() * scale
    return tensor * scale.to(tensor.dtype)
