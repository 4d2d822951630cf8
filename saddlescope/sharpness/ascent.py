"""How ε_g is found: the direction of the ascent, its length, and how often it is looked for.

The plain rule is ε = ρ·g/‖g‖ (Foret et al. 2021). Its relatives change one thing each:

- ASAM (Kwon et al. 2021): ε = ρ·T²g/‖Tg‖ with T = diag|w|, so that scaling weights changes nothing.
- Friendly-SAM (Li et al. 2024): g − σm in place of g, where m is the mean of former gradients,
  m ← λm + (1−λ)g; the first step has m = g and ascends along g, as in the authors' code.
- LookSAM (Liu et al. 2022): the ascent in every k-th step alone. There the part of the gradient at
  w + ε that is orthogonal to g is kept, v = g_s − (⟨g_s,g⟩/‖g‖²)·g, and the steps between descend
  along g + α·(‖g‖/‖v‖)·v.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saddlescope.errors import UsageError
from saddlescope.sharpness.gradients import Gradients
from saddlescope.sharpness.norms import global_norm, inner_product, local


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
        """Tell whether a step depends on the gradients of former ones."""
        return self.friendly > 0.0 or self.every > 1


class Memory:
    """The gradients of former steps that Friendly-SAM and LookSAM need, in the optimiser's state.

    Args:
        parameters: of the step.
        state: of the optimiser, by parameter.
        ascent: which of them.
    """

    def __init__(
        self, parameters: Sequence[Tensor], state: Mapping[Any, dict[str, Any]], ascent: Ascent
    ) -> None:
        self._parameters, self._state, self._ascent = parameters, state, ascent
        self._new: dict[str, Gradients] = {}

    def uphill(self, group: Hashable, gradients: Gradients) -> Gradients:
        """Return the gradients, less σ times the mean of the former ones (Friendly-SAM)."""
        sigma, decay = self._ascent.friendly, self._ascent.decay
        if sigma == 0.0:
            return gradients
        pairs = list(zip(gradients, self._kept("mean", group), strict=True))
        self._keep(
            "mean", group,
            [m if g is None else g.clone() if m is None else decay * m + (1.0 - decay) * g
             for g, m in pairs],
        )  # fmt: skip
        return [g if g is None or m is None else g - sigma * m for g, m in pairs]

    def skips(self, group: Hashable, step: int) -> bool:
        """Tell whether a step takes the orthogonal part from a former one (LookSAM)."""
        if step % self._ascent.every == 0:
            return False
        return any(v is not None for v in self._kept("orthogonal", group))

    def keep_orthogonal(self, group: Hashable, at_w: Gradients, at_ascent: Gradients) -> None:
        """Keep v = g_s − (⟨g_s,g⟩/‖g‖²)·g."""
        both = [
            (s, g) for s, g in zip(at_ascent, at_w, strict=True) if s is not None and g is not None
        ]
        along = inner_product([s for s, _ in both], [g for _, g in both])
        square = global_norm([g for _, g in both]).square()
        share = torch.where(square > 0, along / square, torch.zeros_like(square))
        self._keep(
            "orthogonal", group,
            [s if s is None or g is None else s - share.to(s.dtype) * g
             for s, g in zip(at_ascent, at_w, strict=True)],
        )  # fmt: skip

    def reused(self, group: Hashable, at_w: Gradients) -> Gradients:
        """G + α·(‖g‖/‖v‖)·v."""
        orthogonal = self._kept("orthogonal", group)
        length = global_norm([v for v in orthogonal if v is not None])
        slope = global_norm([g for g in at_w if g is not None])
        zero = torch.zeros_like(length)
        factor = torch.where(length > 0, self._ascent.reuse * slope / length, zero)
        return [
            g if g is None or v is None else g + factor.to(g.dtype) * v
            for g, v in zip(at_w, orthogonal, strict=True)
        ]

    def commit(self) -> None:
        """Write what is new; after the base's step, which may look whether a state is empty."""
        for name, gradients in self._new.items():
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                if gradient is not None:
                    self._state[parameter][name] = gradient

    def _kept(self, kind: str, group: Hashable) -> Gradients:
        name = _name(kind, group)
        # Not self._state[p]: looking must not make an entry.
        return [self._state[p].get(name) if p in self._state else None for p in self._parameters]

    def _keep(self, kind: str, group: Hashable, gradients: Gradients) -> None:
        self._new[_name(kind, group)] = gradients


def _name(kind: str, group: Hashable) -> str:
    return f"sharpness_{kind}_{group}"


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
