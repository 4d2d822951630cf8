"""How a recipe wants its numbers computed: TF32, bfloat16, kernels whose sums have one order."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from saddlescope.curvature import tf32
from saddlescope.training.recipe import TrainingSection


@contextmanager
def arithmetic(training: TrainingSection) -> Iterator[None]:
    """Compute as the recipe says; torch's settings are put back afterwards.

    With `precision = "tf32"` CUDA may round the factors of float32 products to 10 bits, otherwise
    not (torch alone would let convolutions do it). With `deterministic` cuDNN takes only kernels
    that add in one order: without, a resumed run on CUDA may end with other last digits than one
    that was not stopped.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    with tf32(allowed=training.precision == "tf32"):
        try:
            if training.deterministic:
                cudnn.deterministic, cudnn.benchmark = True, False
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = before


def fast_bfloat16() -> bool:
    """Return whether torch has fast bfloat16 convolutions for this machine's processor.

    They need AVX-512; without it torch falls back to plain loops.
    """
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
