"""The long-tail losses of the paper's tables: CE, LDAM, LA, VS and class-balanced CE.

LDAM: Cao et al., NeurIPS 2019. LA: Menon et al., "Long-tail learning via logit adjustment",
ICLR 2021, as a training loss. VS: Kini et al., NeurIPS 2021. CB: Cui et al., CVPR 2019. The
defaults are those of the paper's released code, of CB those of its authors. Each is a cross-entropy
of changed logits or with a weight a class; "mean" divides by the number of samples, never by a sum
of weights, and each is twice differentiable.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import nn

from saddlescope.errors import UsageError, unknown
from saddlescope.longtail.counts import class_counts
from saddlescope.longtail.cross_entropy import CountedCrossEntropy, fitting, within

LDAM_FORMS: Final = ("released", "original")
"""What LDAM scales: the margin alone, or the logits too."""

_LARGEST: Final = 1e30
"""Of an option: with more float32 overflows, whatever the logits."""


class LDAM(CountedCrossEntropy):
    """Label-distribution-aware margins m_j = max_margin · (n_min / n_j)^(1/4).

    With z the logits and y the target, form "released" is CE(z − scale·m_y·e_y): only the
    margin is scaled and the logits are raw, as in the paper's code. Form "original" is
    CE(scale·(z − m_y·e_y)), where z are the cosines of a normalised classifier.

    Args:
        counts: training images of each class, float64, shape (C,).
        reduction: "mean", "sum" or "none".
        max_margin: margin of the smallest class.
        scale: s.
        form: "released" or "original".

    Raises:
        UsageError: an unknown form.
    """

    takes_probabilities = False
    scaled_margins: torch.Tensor

    def __init__(
        self,
        counts: torch.Tensor,
        *,
        reduction: str,
        max_margin: float = 0.5,
        scale: float = 30.0,
        form: str = "released",
    ) -> None:
        super().__init__(len(counts), reduction=reduction)
        if form not in LDAM_FORMS:
            raise UsageError(f"unknown LDAM form {form!r}: choose from {', '.join(LDAM_FORMS)}")
        self.logit_scale = 1.0 if form == "released" else scale
        self.register_buffer("scaled_margins", scale * max_margin * (counts.min() / counts) ** 0.25)

    def shifted(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """logit_scale·z − scale·m_y·e_y, shape (N, C, *d)."""
        margins, places = self.scaled_margins.to(logits.dtype)[targets], targets.unsqueeze(1)
        at_target = torch.zeros_like(logits).scatter(1, places, margins.unsqueeze(1))
        return self.logit_scale * logits - at_target


class VectorScaled(CountedCrossEntropy):
    """VS: CE(Δ_j·z_j + tau·log π_j) with Δ_j = (n_j / n_max)^gamma and π_j = n_j / Σn.

    Args:
        counts: training images of each class, float64, shape (C,).
        reduction: "mean", "sum" or "none".
        gamma: exponent of the multiplicative part; 0 leaves logit adjustment.
        tau: weight of the additive part.
    """

    factors: torch.Tensor
    offsets: torch.Tensor

    def __init__(
        self, counts: torch.Tensor, *, reduction: str, gamma: float = 0.05, tau: float = 0.75
    ) -> None:
        super().__init__(len(counts), reduction=reduction)
        self.register_buffer("factors", (counts / counts.max()) ** gamma)
        self.register_buffer("offsets", tau * (counts / counts.sum()).log())

    def shifted(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Δ·z + tau·log π, shape (N, C, *d)."""
        return logits * _by_class(self.factors, logits) + _by_class(self.offsets, logits)


class LogitAdjusted(VectorScaled):
    """LA: CE(z_j + tau·log π_j), which is VS with gamma 0.

    Args:
        counts: training images of each class, float64, shape (C,).
        reduction: "mean", "sum" or "none".
        tau: weight of the log prior.
    """

    def __init__(self, counts: torch.Tensor, *, reduction: str, tau: float = 0.75) -> None:
        super().__init__(counts, reduction=reduction, gamma=0.0, tau=tau)


def _by_class(table: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Numbers of the classes, shape (C,), to go with logits (N, C, *d)."""
    return table.to(logits.dtype).reshape(-1, *[1] * (logits.dim() - 2))


class Reweighted(nn.Module):
    """w_y·loss, with the class-balanced weights of Cui et al.

    w_c is proportional to 1/E_c with E_c = (1 − β^n_c)/(1 − β), the effective number of samples,
    and the weights of all classes have the mean 1. β = 0 weighs all classes alike, β → 1 by 1/n_c.

    Args:
        loss: with reduction "none".
        counts: training images of each class, float64, shape (C,).
        reduction: "mean" over the samples, "sum" or "none".
        beta: β in [0, 1).

    Raises:
        UsageError: β out of range.
    """

    takes_probabilities = False
    classes: int
    ignore_index: int
    class_weights: torch.Tensor

    def __init__(
        self,
        loss: "CountedCrossEntropy | Reweighted",
        counts: torch.Tensor,
        *,
        reduction: str,
        beta: float = 0.9999,
    ) -> None:
        super().__init__()
        if not 0.0 <= beta < 1.0:
            raise UsageError(f"beta = {beta}: expected a number from 0 up to, not including, 1")
        self.loss, self.reduction = loss, reduction
        self.classes, self.ignore_index = loss.classes, loss.ignore_index
        # expm1 and log1p: 1 − β^n loses digits where β is near 1.
        inverse = 1.0 / -torch.expm1(counts * math.log(beta)) if beta else torch.ones_like(counts)
        self.register_buffer("class_weights", inverse / inverse.mean())

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits (N, C, *d): a scalar, or (N, *d) with reduction "none".

        Raises:
            UsageError, DataError: see `CountedCrossEntropy`.
        """
        targets = fitting(logits, targets, self)
        weights = self.class_weights.to(logits.dtype)[within(targets, self.classes)]
        values = self.loss(logits, targets) * weights  # 0 where the target is ignored
        if self.reduction == "none":
            return values
        if self.reduction == "sum":
            return values.sum()
        return values.sum() / (targets != self.ignore_index).sum()


def _class_balanced(counts: torch.Tensor, *, reduction: str, beta: float = 0.9999) -> Reweighted:
    loss = CountedCrossEntropy(len(counts), reduction="none")
    return Reweighted(loss, counts, reduction=reduction, beta=beta)


def _cross_entropy(counts: torch.Tensor, *, reduction: str) -> CountedCrossEntropy:
    return CountedCrossEntropy(len(counts), reduction=reduction)


_Factory = Callable[..., CountedCrossEntropy | Reweighted]

_LOSSES: Final[Mapping[str, tuple[_Factory, tuple[str, ...]]]] = {
    "ce": (_cross_entropy, ()),
    "ldam": (LDAM, ("max_margin", "scale", "form")),
    "la": (LogitAdjusted, ("tau",)),
    "vs": (VectorScaled, ("gamma", "tau")),
    "cb": (_class_balanced, ("beta",)),
}
"""Loss key to its factory and the options it takes."""


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse what a loss does not take, before there are counts to make it of.

    Args:
        name: a key of the losses.
        options: as of `make_loss`.

    Raises:
        UsageError: an option it has not, or one that is no number, or no such form.
    """
    allowed = _LOSSES[name][1]
    for option, value in options.items():
        if option not in allowed:
            takes = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
            raise UsageError(f"loss {name!r} has no option {option!r}: {takes}")
        if option == "form":
            if value not in LDAM_FORMS:
                raise UsageError(
                    f"unknown LDAM form {str(value)[:80]!r}: choose from {', '.join(LDAM_FORMS)}"
                )
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"loss {name!r}: {option} = {str(value)[:80]!r}: expected a number")
        elif not abs(value) <= _LARGEST:
            raise UsageError(f"loss {name!r}: {option}: expected a number below {_LARGEST:g}")
        elif option == "beta" and not 0.0 <= value < 1.0:
            raise UsageError(f"beta = {value}: expected a number from 0 up to, not including, 1")


def make_loss(
    name: str,
    counts: Any,
    *,
    reduction: str = "mean",
    reweight_beta: float | None = None,
    **options: float | str,
) -> nn.Module:
    """Build a loss, to be called as loss(logits (N, C), targets (N,)).

    Dense outputs (N, C, *d) with targets (N, *d) do too; targets of −100 are not counted; "ce",
    "la" and "vs" take probabilities of the logits' shape as targets, as mixup makes them.

    Args:
        name: "ce", "ldam", "la", "vs" or "cb".
        counts: training images of each class, C of them in any form that `class_counts` reads.
        reduction: "mean" or "sum" over the samples, or "none"; kept as an attribute.
        reweight_beta: also weigh each sample by the class-balanced weight of this β, as deferred
            re-weighting (DRW, Cao et al. 2019) does in its last epochs.
        **options: "ldam" takes max_margin, scale and form; "la" tau; "vs" gamma and tau; "cb" beta.

    Raises:
        UsageError: an unknown name, reduction or option, or an empty class.
    """
    if name not in _LOSSES:
        raise unknown("loss", name, _LOSSES)
    if reduction not in ("mean", "sum", "none"):
        raise UsageError(f"reduction={reduction!r}: choose from mean, sum, none")
    counts = class_counts(counts)
    if not counts or min(counts) < 1:
        raise UsageError(f"loss {name!r} needs at least 1 training image in every class")
    check_options(name, options)
    factory, _ = _LOSSES[name]
    numbers = torch.tensor(counts, dtype=torch.float64)
    if reweight_beta is None:
        return factory(numbers, reduction=reduction, **options)
    loss = factory(numbers, reduction="none", **options)
    return Reweighted(loss, numbers, reduction=reduction, beta=reweight_beta)
