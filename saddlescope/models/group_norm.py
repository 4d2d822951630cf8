"""GroupNorm in place of BatchNorm: a network whose samples do not see one another.

Wu, He, "Group normalization" (ECCV 2018): 32 groups, or as many as divide the channels. Such a
network trains alike on any number of processes.
"""

import math

from torch import nn

_GROUPS = 32


def replace_batch_norm(model: nn.Module) -> None:
    """Put a GroupNorm with scale 1 and shift 0 where each BatchNorm of images was, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            groups = math.gcd(_GROUPS, module.num_features)
            model.set_submodule(name, nn.GroupNorm(groups, module.num_features, eps=module.eps))
