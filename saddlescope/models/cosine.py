"""A classifier of cosines, as the original LDAM takes it.

Cao, Wei, Gaidon, Arechiga, Ma, "Learning imbalanced datasets with label-distribution-aware margin
loss" (NeurIPS 2019), whose code calls it NormedLinear. Scaled margins (form "original" of LDAM) are
meant for its outputs, which lie in [−1, 1].
"""

import torch
from torch import nn


class CosineClassifier(nn.Module):
    """z_j = ⟨w_j, x⟩/(‖w_j‖·‖x‖).

    Args:
        in_features: length of x.
        num_classes: C, the size of the output.

    Attributes:
        weight: w, shape (C, in_features); its lengths do not matter.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, in_features).uniform_(-1.0, 1.0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (N, in_features) to cosines (N, C)."""
        unit = nn.functional.normalize(features, dim=1)
        return unit @ nn.functional.normalize(self.weight, dim=1).T
