"""The residual block that every network here is made of, and the He initialisation.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition" (CVPR 2016), Fig. 2 and
section 3.3: two 3x3 convolutions, each with BatchNorm, and a shortcut. Where the shape changes
the shortcut is option A (subsample, pad the new channels with zeros, no parameters) or
option B (1x1 convolution and BatchNorm). Initialisation: He et al., "Delving deep into
rectifiers" (ICCV 2015), normal, fan out.
"""

from typing import Literal

import torch
from torch import nn


class BasicBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), from C_in to C_out channels.

    Args:
        in_channels: channels of the input.
        out_channels: channels of both convolutions and of the output.
        stride: stride of the first convolution and of the shortcut; H' = ceil(H / stride).
        shortcut: where the shape changes, "pad" is option A and "conv" option B.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        shortcut: Literal["pad", "conv"],
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride=stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            if shortcut == "conv":
                self.downsample = nn.Sequential(
                    nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                    nn.BatchNorm2d(out_channels),
                )
            else:
                self.downsample = SubsamplePad(stride, out_channels - in_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.downsample(x))


class SubsamplePad(nn.Module):
    """Option A: every stride-th pixel, and zeros for the new channels, half before, half after."""

    def __init__(self, stride: int, new_channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to (N, C + new, ceil(H / stride), ceil(W / stride))."""
        x = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(x, (0, 0, 0, 0, self.before, self.after))


def conv3x3(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution, padding 1, without bias (BatchNorm follows)."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def stage(
    in_channels: int,
    out_channels: int,
    blocks: int,
    *,
    stride: int,
    shortcut: Literal["pad", "conv"],
) -> nn.Sequential:
    """A row of blocks; only the first one changes the shape."""
    first = BasicBlock(in_channels, out_channels, stride=stride, shortcut=shortcut)
    rest = (
        BasicBlock(out_channels, out_channels, stride=1, shortcut=shortcut)
        for _ in range(blocks - 1)
    )
    return nn.Sequential(first, *rest)


def he_initialise(model: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / fan_out), in place; BatchNorm stays at 1 and 0.

    The last linear layer keeps PyTorch's default, as in torchvision's ResNet.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
