"""A recipe that describes many runs: which ones, under which names, at which cost."""

import pytest

from saddlescope.errors import UsageError
from saddlescope.sharpness import method_radii
from saddlescope.training import load_plan, load_recipe
from saddlescope.training.costs import estimate

BASE = 'extends = "package:digits-lt"\nname = "t"\n'


def plan(tmp_path, text, **options):
    path = tmp_path / "t.toml"
    path.write_text(BASE + text, encoding="utf-8")
    return load_plan(path, **options)


TABLE = """
[[sweep]]
"method.name" = ["sgd", "sam"]
"data.imbalance_factor" = [10, 20.0]
"training.seed" = [0, 1]
[[sweep]]
method.name = ["sse-sam"]
method.rho_tail = [0.1, 0.2]
loss.name = ["la"]
"""


def test_every_combination_once_under_a_name_of_its_own(tmp_path):
    found = plan(tmp_path, TABLE, overrides=["training.epochs=3"])
    assert found.swept
    assert [recipe.run_name for recipe in found.runs] == [
        "t-if10-sgd-seed0", "t-if10-sgd-seed1", "t-if20-sgd-seed0", "t-if20-sgd-seed1",
        "t-if10-sam-seed0", "t-if10-sam-seed1", "t-if20-sam-seed0", "t-if20-sam-seed1",
        "t-rhotail0.1-la-sse-sam-seed0", "t-rhotail0.2-la-sse-sam-seed0",
    ]  # fmt: skip
    assert {recipe.training.epochs for recipe in found.runs} == {3}
    assert found.runs[2].data.imbalance_factor == 20
    assert found.only("t-rhotail0.2-la-sse-sam-seed0").method.rho_tail == 0.2
    # A run's recipe is a plain one, to be read back from its folder.
    assert load_recipe_text(tmp_path, found.runs[-1].to_toml()) == found.runs[-1]


def load_recipe_text(tmp_path, text):
    path = tmp_path / "single.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


def test_shards_are_every_run_once(tmp_path):
    found = plan(tmp_path, TABLE)
    parts = [found.shard(f"{k}/3") for k in (1, 2, 3)]
    assert sorted(r.run_name for part in parts for r in part) == sorted(
        r.run_name for r in found.runs
    )
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_plain_recipe_is_a_plan_of_one(tmp_path):
    found = plan(tmp_path, "")
    assert not found.swept
    assert [recipe.run_name for recipe in found.runs] == ["t-sgd-seed0"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("sweep = 3", {}, r"expected \[\[sweep\]\] blocks"),
        ('[[sweep]]\n"method.name" = "sam"', {}, r"sweep.method.name: expected a list"),
        ('[[sweep]]\n"method.name" = []', {}, r"sweep.method.name: expected a list"),
        ('[[sweep]]\n"method.nam" = ["sam"]', {}, r"unknown key 'method.nam'; did you mean"),
        ('[[sweep]]\n"method.name" = ["sma"]', {}, r"method.name = 'sma'"),
        ('[[sweep]]\n"training.seed" = [1, 1]', {}, r"two runs are called t-sgd-seed1"),
        (TABLE, {"overrides": ["method.name=sam"]}, r"sweeps over method.name; choose a run"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path, text, options, message):
    with pytest.raises(UsageError, match=message):
        plan(tmp_path, text, **options)


def test_a_run_or_shard_that_is_not_there(tmp_path):
    found = plan(tmp_path, TABLE)
    with pytest.raises(UsageError, match="did you mean t-if10-sgd-seed1"):
        found.only("t-if10-sdg-seed1")
    for wrong in ("0/2", "3/2", "x", "1"):
        with pytest.raises(UsageError, match="expected K/N"):
            found.shard(wrong)
    with pytest.raises(UsageError, match="describes several runs"):
        load_recipe(tmp_path / "t.toml")


def test_the_estimate_counts_passes_by_stage(tmp_path):
    (recipe,) = plan(
        tmp_path, '[method]\nname = "sse-sam"\ngamma = 0.7\n[training]\nepochs = 10\n'
    ).runs
    found = estimate(recipe)
    assert found.images == 438
    assert found.steps == 10 * -(-438 // recipe.optimizer.batch_size)
    # Stage 1 takes 3 forward and 4 backward passes, stage 2 takes 2 and 3.
    assert found.gradients == pytest.approx(7 * (3 + 8) / 3 + 3 * (2 + 6) / 3)
    compiled = recipe.model_copy(
        update={"training": recipe.training.model_copy(update={"compile": True})}
    )
    assert estimate(compiled).gradients == pytest.approx(7 * 4 + 3 * 3)


@pytest.mark.parametrize(
    ("method", "passes"),
    [("sgd", (1, 1)), ("sam", (2, 2)), ("imbsam", (2, 3)), ("sam-ext", (3, 4))],
)
def test_passes_by_method(method, passes):
    assert method_radii(method, epochs=1).passes(0) == passes
