"""A fixed linear classifier whose rows have factors of their own, as LWS trains them.

Kang et al., "Decoupling representation and classifier for long-tailed recognition" (ICLR 2020).
"""

import torch
from torch import nn


class ScaledClassifier(nn.Module):
    """z_c = f_c·(⟨w_c, x⟩ + b_c).

    Args:
        in_features: length of x.
        num_classes: C, the size of the output.

    Attributes:
        weight, bias: w, shape (C, in_features), and b, shape (C,).
        factors: f, shape (C,), 1 at first.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_classes, in_features))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.factors = nn.Parameter(torch.ones(num_classes))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (N, in_features) to logits (N, C)."""
        return self.factors * nn.functional.linear(features, self.weight, self.bias)
