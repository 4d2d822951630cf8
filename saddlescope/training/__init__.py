"""From a recipe to a run folder: checkpoints, metrics and their provenance, resumable."""

from saddlescope.training.arithmetic import fast_bfloat16
from saddlescope.training.branching import APART, Branching, in_a_sweep, require_trunk, trunk_of
from saddlescope.training.checkpoints import (
    load_checkpoint,
    load_weights,
    refuse_other_than_tensors,
    state_dict_of,
    weights_digest,
)
from saddlescope.training.costs import estimate
from saddlescope.training.decoupling import second_stage
from saddlescope.training.losses import epoch_loss
from saddlescope.training.recipe import (
    Recipe,
    first_difference,
    load_recipe,
    packaged_recipe,
    parse_recipe,
)
from saddlescope.training.restore import TrainedRun, load_section, restore_run
from saddlescope.training.run import RunOptions
from saddlescope.training.sweep import Plan, load_plan
from saddlescope.training.together import train_together
from saddlescope.training.trainer import train, training

__all__ = [
    "APART", "Branching", "Plan", "Recipe", "RunOptions", "TrainedRun", "epoch_loss",
    "estimate", "fast_bfloat16", "first_difference", "in_a_sweep", "load_checkpoint", "load_plan",
    "load_recipe", "load_section", "load_weights", "packaged_recipe", "parse_recipe",
    "refuse_other_than_tensors", "require_trunk", "restore_run", "second_stage", "state_dict_of",
    "train", "train_together", "training", "trunk_of", "weights_digest",
]  # fmt: skip
