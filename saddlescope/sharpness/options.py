"""Options of a step beside its ascent: clipping, buffers, and who shares the batch."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from saddlescope.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Options of a step beside its ascent.

    Attributes:
        clip: the L2 norm that the final gradient is scaled down to; None leaves it.
        model: needed for `bn_statistics="clean"`, for a local ascent, and for several groups under
            DistributedDataParallel.
        bn_statistics: "clean" lets only the forward at w change the model's buffers (BatchNorm's
            running statistics, spectral norm's vectors, …); "every-pass" lets perturbed forwards
            change them too (as the paper's code does).
        total: adds up a flat vector over the processes that share a batch, in place, such as
            `torch.distributed.all_reduce`; then losses are this process's part of each loss. Called
            once for all ascents and once for the update, whatever the number of groups. None for
            one process alone, and under DistributedDataParallel and `fully_shard`.

    Raises:
        UsageError: a norm that is not above 0, an unknown `bn_statistics`, "clean" without a model.
    """

    clip: float | None = None
    model: nn.Module | None = None
    bn_statistics: str = "every-pass"
    total: Callable[[Tensor], object] | None = None

    def __post_init__(self) -> None:
        if self.bn_statistics not in ("clean", "every-pass"):
            raise UsageError(
                f"bn_statistics = {self.bn_statistics!r}: expected 'clean' or 'every-pass'"
            )
        if self.bn_statistics == "clean" and self.model is None:
            raise UsageError("bn_statistics='clean' needs model=... to find its buffers")
        if self.clip is not None and not self.clip > 0.0:
            raise UsageError(f"clip = {self.clip}: expected a norm > 0")
