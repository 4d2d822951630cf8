"""Embeddings with `max_norm`, whose forward pass writes to their weights.

torch cuts each row that is looked up to that length, in the weights themselves and outside of
autograd: gradients are those at the cut weights, where the cut does nothing any more. So a copy of
the model is cut once, and measured.
"""

import copy
from collections.abc import Callable

import torch
from torch import nn

from saddlescope.curvature.objective.state import exact_arithmetic, untouched
from saddlescope.errors import UsageError


def within_max_norm(model: nn.Module, call_on_all: Callable[[nn.Module], None]) -> nn.Module:
    """Return the model, or where it has such embeddings a copy without `max_norm` at cut weights.

    Args:
        model: left as it is.
        call_on_all: calls a model on all samples.

    Raises:
        UsageError: it has such embeddings and cannot be copied.
    """

    def cutting(network: nn.Module) -> list[nn.Embedding | nn.EmbeddingBag]:
        kinds = (nn.Embedding, nn.EmbeddingBag)
        return [m for m in network.modules() if isinstance(m, kinds) and m.max_norm is not None]

    if not cutting(model):
        return model
    try:
        copied = copy.deepcopy(model)
    except Exception as error:  # whatever a model's own deepcopy raises
        raise UsageError(
            f"{type(model).__name__} has an embedding with max_norm, which changes its weights at "
            f"every call, and it cannot be copied to leave them alone ({error})"
        ) from error
    with untouched(copied), exact_arithmetic(), torch.enable_grad():
        call_on_all(copied)
    for module in cutting(copied):
        module.max_norm = None
    return copied
