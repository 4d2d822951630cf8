"""From a recipe to a run folder: checkpoints, metrics and their provenance, resumable."""

from saddlescope.training.checkpoints import load_checkpoint, weights_digest
from saddlescope.training.decoupling import second_stage
from saddlescope.training.losses import epoch_loss
from saddlescope.training.recipe import Recipe, load_recipe, packaged_recipe, parse_recipe
from saddlescope.training.restore import TrainedRun, load_section, restore_run
from saddlescope.training.run import Progress, RunOptions
from saddlescope.training.sweep import Plan, load_plan
from saddlescope.training.together import train_together
from saddlescope.training.trainer import train, training

__all__ = [
    "Plan",
    "Progress",
    "Recipe",
    "RunOptions",
    "TrainedRun",
    "epoch_loss",
    "load_checkpoint",
    "load_plan",
    "load_recipe",
    "load_section",
    "packaged_recipe",
    "parse_recipe",
    "restore_run",
    "second_stage",
    "train",
    "train_together",
    "training",
    "weights_digest",
]
