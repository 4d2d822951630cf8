"""The networks: ResNet-34 of the paper's code, ResNet-8, -32, -50, ResNeXt-50, a known Hessian.

They contain no in-place activation and no fused block, so that second derivatives flow.
"""

from saddlescope.models.cosine import CosineClassifier
from saddlescope.models.networks import resnet8, resnet20, resnet32, resnet34, resnet50, resnext50
from saddlescope.models.registry import MODELS, build_model
from saddlescope.models.resnet import BasicBlock, ResNet
from saddlescope.models.scaled import ScaledClassifier
from saddlescope.models.two_layer_linear import TwoLayerLinear, origin_eigenvalues

__all__ = [
    "MODELS", "BasicBlock", "CosineClassifier", "ResNet", "ScaledClassifier", "TwoLayerLinear",
    "build_model", "origin_eigenvalues", "resnet8", "resnet20", "resnet32", "resnet34", "resnet50",
    "resnext50",
]  # fmt: skip
