"""What a run folder's checkpoint is measured with."""

import shutil

import pytest
import torch

from saddlescope.errors import DataError
from saddlescope.measurement import run_target
from saddlescope.runs import RunFolder
from saddlescope.training import RunOptions, epoch_loss, packaged_recipe, parse_recipe, train
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


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('name = "vs"', 'name = "ce"', "recipe.toml says loss 'ce' and run.json 'vs'"),
        ("imbalance_factor = 20", "imbalance_factor = 12", "not the data that it was trained on"),
        ("seed = 0", "seed = 5", "recipe.toml says seed 5 and run.json 0"),
    ],
)
def test_a_recipe_that_was_changed_after_the_run_is_refused(run, tmp_path, before, after, words):
    """Measured, or resumed: its words would stand beside the numbers of another run."""
    folder = RunFolder(tmp_path / "copy")
    shutil.copytree(run[0].path, folder.path)
    text = folder.recipe_file.read_text(encoding="utf-8")
    assert before in text
    folder.recipe_file.write_text(text.replace(before, after), encoding="utf-8")
    with pytest.raises(DataError, match=words):
        run_target(folder)
    recipe = parse_recipe(folder.recipe(), origin="copy")
    with pytest.raises(DataError, match=words):
        train(recipe, load_section(recipe.data), folder, RunOptions(resume=True))
