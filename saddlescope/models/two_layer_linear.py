"""A two-layer linear network at the origin: a strict saddle whose Hessian is known in closed form.

f(x) = W₂W₁z(x), with z the image pooled to 4 x 4 and flattened; no biases. At W₁ = 0, W₂ = 0 the
gradient vanishes, every gradient-based optimiser stands still, and the Hessian has both signs
(Baldi and Hornik, Neural Networks 1989; Kawaguchi, NeurIPS 2016: every saddle of a linear network
of this depth is strict).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 16
"""Width of the hidden layer."""

_SIDE = 4


class TwoLayerLinear(nn.Module):
    """W₂W₁z(x), with both matrices zero at the start.

    Args:
        num_classes: K, size of the output.
        in_channels: channels of the images, of any size.
    """

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(_SIDE * _SIDE * in_channels, HIDDEN, bias=False)
        self.fc = nn.Linear(HIDDEN, num_classes, bias=False)
        nn.init.zeros_(self.hidden.weight)
        nn.init.zeros_(self.fc.weight)

    def features(self, inputs: Tensor) -> Tensor:
        """z(x), shape (N, 16 · in_channels), of images of shape (N, in_channels, H, W)."""
        return F.adaptive_avg_pool2d(inputs, _SIDE).flatten(1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, shape (N, K)."""
        output: Tensor = self.fc(self.hidden(self.features(inputs)))
        return output


def origin_eigenvalues(features: Tensor, targets: Tensor, *, num_classes: int) -> Tensor:
    """The non-zero eigenvalues of a two-layer linear network's Hessian at the origin, once each.

    At the origin the mean cross-entropy is, to second order, ln K + ⟨M, W₂W₁⟩ with
    M = (1/n) Σᵢ (1/K - e_{yᵢ}) zᵢᵀ. Every singular value σ of M is an eigenvalue, and so is -σ
    (eigenvectors W₂ = uaᵀ, W₁ = ±avᵀ), each as often as the hidden layer is wide; all others are
    zero. So λ_max = -λ_min = σ₁ and λ_ratio = 1, and for one class M has rank one, with
    σ₁ = ‖z̄‖·√(1 - 1/K).

    Args:
        features: z, shape (n, d).
        targets: class numbers, shape (n,).
        num_classes: K.

    Returns:
        -σ₁ ≤ … ≤ σ₁, float64, shape (2 min(K, d),).
    """
    inputs = features.detach().double()
    residual = torch.full((len(targets), num_classes), 1.0 / num_classes, dtype=torch.float64)
    residual -= F.one_hot(targets.cpu(), num_classes)
    coupling = residual.T @ inputs.cpu() / len(targets)
    singular: Tensor = torch.linalg.svdvals(coupling)
    return torch.cat([-singular, singular.flip(0)])
