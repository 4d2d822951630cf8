"""What a run folder's checkpoint is measured with."""

import pytest
import torch

from saddlescope.measurement import run_target
from saddlescope.runs import RunFolder
from saddlescope.training import epoch_loss, packaged_recipe, train
from saddlescope.training.restore import load_section


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = packaged_recipe(
        "digits-lt",
        overrides=[
            "training.epochs=2", "training.checkpoint_every=1", "loss.name=vs",
            "loss.reweight_from=0.5",
        ],
    )  # fmt: skip
    data = load_section(recipe.data)
    folder = RunFolder(tmp_path_factory.mktemp("run") / "r")
    return train(recipe, data, folder), recipe, data


@pytest.mark.parametrize(("checkpoint", "key"), [("0", "vs"), ("last", "vs-drw")])
def test_the_training_criterion_is_that_of_the_checkpoints_epoch(run, checkpoint, key):
    folder, recipe, data = run
    target = run_target(folder, checkpoint=checkpoint, criterion="training")
    assert target.identity["criterion"] == key
    logits, targets = torch.randn(6, data.num_classes), torch.arange(6)
    expected = epoch_loss(recipe, data, target.identity["epoch"])(logits, targets)
    torch.testing.assert_close(target.criterion(logits, targets), expected)
    assert run_target(folder, checkpoint=checkpoint).identity["criterion"] == "ce"
