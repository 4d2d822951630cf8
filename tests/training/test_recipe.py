"""Recipes are read strictly: what is not meant is refused, in one line that helps."""

import tomllib
from pathlib import Path

import pytest

from saddlescope.errors import UsageError
from saddlescope.training import load_plan, load_recipe, packaged_recipe
from saddlescope.training.costs import estimate
from saddlescope.training.recipe import parse_recipe

ROOT = Path(__file__).parents[2]


def write(folder, text, name="recipe.toml"):
    path = folder / name
    path.write_text(text)
    return path


def test_defaults_are_written_out_and_read_back():
    recipe = packaged_recipe("digits-lt")
    again = parse_recipe(tomllib.loads(recipe.to_toml()), origin="test")
    assert again == recipe
    assert "group_reduction" in recipe.to_toml()


@pytest.mark.parametrize("path", sorted((ROOT / "train").glob("*.toml")), ids=lambda p: p.stem)
def test_every_recipe_of_the_repository_is_valid(path):
    plan = load_plan(path)
    # Named after its file, so that the README's table and the folders agree.
    assert plan.name == path.stem
    assert all(estimate(recipe).steps > 0 for recipe in plan.runs)


def test_extends_changes_only_what_it_names(tmp_path):
    path = write(tmp_path, 'extends = "package:digits-lt"\n[training]\nepochs = 3\n')
    recipe = load_recipe(path)
    assert recipe.training.epochs == 3
    assert recipe.optimizer == packaged_recipe("digits-lt").optimizer


def test_extends_a_file_beside_it(tmp_path):
    write(tmp_path, 'extends = "package:digits-lt"\nname = "base"\n', "base.toml")
    assert load_recipe(write(tmp_path, 'extends = "base.toml"\n')).name == "base"


def test_overrides_take_toml_values_and_bare_words():
    recipe = packaged_recipe(
        "digits-lt",
        overrides=["method.name=sse-sam", "method.rho=0.2", "data.augment=true", 'name="x"'],
    )
    assert (recipe.method.name, recipe.method.rho) == ("sse-sam", 0.2)
    assert (recipe.data.augment, recipe.name) == (True, "x")


def test_loss_options_are_kept():
    recipe = packaged_recipe("digits-lt", overrides=["loss.name=la", "loss.tau=0.5"])
    assert recipe.loss.options() == {"tau": 0.5}
    assert "tau = 0.5" in recipe.to_toml()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.roh=1", r"unknown key 'method\.roh'; did you mean 'rho'\?"),
        ("metod.rho=1", r"unknown key 'metod'; did you mean 'method'\?"),
        ("method.name=adam", r"method\.name = 'adam': input should be 'sgd'"),
        ("method.gamma=1.5", r"method\.gamma = 1\.5: input should be less than"),
        ("model.name=resnet23", r"model\.name = .resnet23.: input should be .resnet8., .resnet20."),
        ("training.epochs=0", r"training\.epochs = 0"),
        ("training.epochs=many", r"training\.epochs = 'many': input should be a valid integer"),
        ("optimizer.eta=-1", r"optimizer\.eta = -1"),
        ("optimizer.eta=true", r"optimizer\.eta = True: input should be a valid number"),
        ("optimizer.momentum=false", r"optimizer\.momentum = False: input should be"),
        ("training.epochs=true", r"training\.epochs = True: input should be a valid integer"),
        ('training.evaluate_every="2"', r"training\.evaluate_every = '2': input should be"),
        ("training.epochs=2.0", r"training\.epochs = 2\.0: input should be a valid integer"),
        ("loss.reweight_from=true", r"loss\.reweight_from = True: input should be"),
        ("data.augment=1", r"data\.augment = 1: input should be a valid boolean"),
        ("name=../x", r"name = '\.\./x'"),
        ("method", r"override 'method': expected section\.key=value"),
        ("name.x=1", r"name is not a section"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(override, message):
    with pytest.raises(UsageError, match=message) as caught:
        packaged_recipe("digits-lt", overrides=[override])
    assert "\n" not in str(caught.value)


def test_missing_key(tmp_path):
    with pytest.raises(UsageError, match="key 'data' is missing"):
        load_recipe(write(tmp_path, 'name = "x"\n[model]\nname = "resnet8"\n[training]\nepochs=1'))


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        load_recipe(tmp_path / "absent.toml")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_recipe(write(tmp_path, "name = "))
    with pytest.raises(UsageError, match="packaged are digits-lt"):
        packaged_recipe("nothing")
    for long in (f"a{'.a' * 50_000} = 1", f"[a{'.a' * 50_000}]", "a" + ".'='.a" * 400 + " = 1"):
        with pytest.raises(UsageError, match="line 2 has more than 300 dots"):
            load_recipe(write(tmp_path, f'name = "x"\n{long}\n'))
    with pytest.raises(UsageError, match="in a circle"):
        load_recipe(write(tmp_path, 'extends = "recipe.toml"'))


@pytest.mark.parametrize("parent", ["a" * 200_000, "package:" + "[" * 5000, "b/" * 300])
def test_a_parent_of_endless_name_is_one_short_line(tmp_path, parent):
    (tmp_path / "r.toml").write_text(f'extends = "{parent}"')
    with pytest.raises(UsageError) as refused:
        load_recipe(str(tmp_path / "r.toml"))
    assert f"{len(parent)} characters" in str(refused.value)
    assert len(str(refused.value)) < 400
