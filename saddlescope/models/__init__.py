"""The networks: the paper's ResNet-34, a true ResNet-32, and a small ResNet-8 for digits.

They contain no in-place activation and no fused block, so that second derivatives flow.
"""

from saddlescope.models.blocks import BasicBlock
from saddlescope.models.cosine import CosineClassifier
from saddlescope.models.registry import MODELS, build_model
from saddlescope.models.resnet_large import ResNet34, resnet34
from saddlescope.models.resnet_small import SmallResNet, resnet8, resnet32
from saddlescope.models.two_layer_linear import (
    TwoLayerLinear,
    origin_eigenvalues,
    two_layer_linear,
)

__all__ = [
    "MODELS",
    "BasicBlock",
    "CosineClassifier",
    "ResNet34",
    "SmallResNet",
    "TwoLayerLinear",
    "build_model",
    "origin_eigenvalues",
    "resnet8",
    "resnet32",
    "resnet34",
    "two_layer_linear",
]
