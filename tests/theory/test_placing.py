"""The numbers of a step at a checkpoint, from a run folder written by hand."""

import json

import pandas as pd
import pytest
import tomli_w

from saddlescope.errors import DataError
from saddlescope.runs import SPECTRUM_COLUMNS, RunFolder, read_spectrum, write_spectrum
from saddlescope.theory import place

GROUPS = {"all": [0, 1, 2], "head": [0, 1], "tail": [2]}


def run(tmp_path, method, *, epochs=10, norms=(), sizes=None, **words):
    """A run of three classes with rows of epochs 4 and 8: λ_min = −10, ‖∇L‖ = 2."""
    folder = RunFolder(tmp_path / method)
    folder.path.mkdir(parents=True)
    recipe = {
        "method": {"name": method, "rho": 0.05, "rho_head": 0.04, "rho_tail": 0.10, **words},
        "optimizer": {"momentum": 0.9, "batch_size": 100},
        "training": {"epochs": epochs},
    }
    folder.recipe_file.write_text(tomli_w.dumps(recipe))
    folder.run_file.write_text(json.dumps({"data": {"groups": GROUPS}}))
    sizes = sizes or [0.1] * epochs
    rows = [{"epoch": epoch, "lr": size} for epoch, size in enumerate(sizes)]
    folder.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder.norms_file.write_text("".join(json.dumps(row) + "\n" for row in norms))
    for epoch in (4, 8):
        table = []
        for kind, name in [("group", "all"), ("group", "head"), ("group", "tail"), ("class", "2")]:
            row = dict.fromkeys(SPECTRUM_COLUMNS, 1.0)
            row |= {"run": "x", "split": "train", "criterion": "ce", "digest": "x"}
            row |= {"operator": "hessian", "parameters": "*", "weight_decay": 0.0}
            row |= {"kind": kind, "name": name, "epoch": epoch, "seed": 0, "n": 5, "matvecs": 9}
            row |= {"lambda_min": -10.0, "gradient_norm": 2.0, "method": method, "converged": True}
            table.append(row)
        write_spectrum(folder.spectrum_file(f"epoch-{epoch:03d}", "train"), table)
    return folder


def radii(frame, epoch):
    rows = frame[frame["epoch"] == epoch]
    return {row["name"]: row["rho"] for _, row in rows.iterrows()}


def test_each_row_has_the_radius_of_its_samples_in_its_epoch(tmp_path):
    """Head 0.04, tail 0.10, SAM 0.05; the switch of SSE-SAM is epoch 7 of 10."""
    found = {m: place([run(tmp_path, m)]) for m in ("sgd", "sam", "imbsam", "sam-ext", "sse-sam")}
    all_rows = {"all": 0.05, "head": 0.05, "tail": 0.05, "2": 0.05}
    assert radii(found["sgd"], 4) == radii(found["sam"], 8) == all_rows
    # "all" holds samples of two radii, and a head that is not perturbed takes SGD's step.
    assert radii(found["imbsam"], 4) == {"tail": 0.10, "2": 0.10}
    both = {"head": 0.04, "tail": 0.10, "2": 0.10}
    assert radii(found["sam-ext"], 8) == radii(found["sse-sam"], 4) == both
    assert radii(found["sse-sam"], 8) == {"tail": 0.10, "2": 0.10}
    other = place([run(tmp_path / "more", "sgd", first_stage="sam-ext")])
    assert (radii(other, 4), radii(other, 8)) == (both, all_rows)


def test_a_step_is_as_long_as_momentum_makes_it(tmp_path):
    found = place([run(tmp_path, "sam", sizes=[0.1] * 5 + [0.01] * 3 + [0.0009, 0.0])])
    assert set(found["epoch"]) == {4}  # at epoch 8 the schedule has ended
    assert found["eta"].unique() == pytest.approx([1.0])
    assert found["a"].unique() == pytest.approx([10.0])
    assert found["b"].unique() == pytest.approx([0.05 * 10 / 2])


@pytest.mark.parametrize(("reduction", "share"), [("batch", 0.2), ("group", 1.0)])
def test_the_gradient_is_a_mini_batchs_where_it_was_logged(tmp_path, reduction, share):
    logged = [
        {"epoch": 0, "gradient_norm": 9.0, "gradient_norm_tail": 9.0, "batch_tail": 1},
        {"epoch": 5, "gradient_norm": 3.0, "gradient_norm_tail": 1.0, "batch_tail": 20},
        {"epoch": 5, "gradient_norm": 4.0, "gradient_norm_tail": 1.0, "batch_tail": 20},
        {"epoch": 5, "gradient_norm": 5.0, "gradient_norm_tail": 1.0, "batch_tail": 20},
        {"epoch": 5, "gradient_norm": 4.0, "gradient_norm_tail": None, "batch_tail": 0},
    ]
    found = place([run(tmp_path, "sam", norms=logged, group_reduction=reduction)])
    rows = {(r["epoch"], r["name"]): r for _, r in found.iterrows()}
    row = rows[4, "all"]
    assert (row["gradient_norm"], row["norm_of"]) == (4.0, "mini-batch")
    row = rows[4, "tail"]
    assert (row["gradient_norm"], row["norm_of"]) == (pytest.approx(1.0 / share), "mini-batch")
    assert row["b"] == pytest.approx(0.05 * 10.0 * share)
    assert (rows[8, "2"]["gradient_norm"], rows[8, "2"]["norm_of"]) == (2.0, "row")
    assert rows[4, "head"]["norm_of"] == "row"  # whose norm nobody logged


def test_one_odd_mini_batch_does_not_place_a_row(tmp_path):
    """Logged every tenth epoch, the nearest batch may be one whose tail is learnt by heart."""
    logged = [
        {"epoch": epoch, "gradient_norm": 4.0, "gradient_norm_tail": norm, "batch_tail": 100}
        for epoch, norm in ((0, 3.0), (3, 2.0), (4, 0.001), (8, 2.5), (9, 7.0))
    ]
    found = place([run(tmp_path, "sam", norms=logged, group_reduction="group")])
    tail = found[(found["name"] == "tail") & (found["epoch"] == 4)]
    assert tail["gradient_norm"].tolist() == [2.25]  # epochs 3, 4, and both that are 4 away


def test_an_empty_table_still_has_its_columns(tmp_path):
    found = place([run(tmp_path, "sam", sizes=[0.1] + [0.0] * 9)])
    assert isinstance(found, pd.DataFrame)
    assert len(found) == 0
    assert "norm_of" in found


def test_rows_of_other_matrices_and_losses_are_not_placed(tmp_path):
    folder = run(tmp_path, "sam")
    expected = place([folder])
    file = folder.spectrum_file("epoch-004", "train")
    rows = read_spectrum(file)
    others = [
        row | changes | {"lambda_min": -99.0}
        for row in rows
        for changes in (
            {"operator": "weingarten"},
            {"parameters": "layer3.*"},
            {"weight_decay": 0.1},
            {"criterion": "ldam"},
        )
    ]
    write_spectrum(file, [row | {"criterion": "ce"} for row in rows] + others)
    found = place([folder])
    assert (found["lambda_min"] == -10.0).all()
    assert len(found[found["epoch"] == 4]) == len(expected[expected["epoch"] == 4])


def test_a_partial_batch_is_shared_out_by_its_own_size(tmp_path):
    logged = [{"epoch": 4, "gradient_norm": 2.0, "gradient_norm_tail": 1.5, "batch": 20,
               "batch_tail": 5}]  # fmt: skip
    found = place([run(tmp_path, "sam", norms=logged, group_reduction="batch")])
    (row,) = found[(found["name"] == "tail") & (found["epoch"] == 4)].to_dict("records")
    assert row["gradient_norm"] == pytest.approx(1.5 * 20 / 5)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"method": "mymethod"}, "unknown method 'mymethod'"),
        ({"epochs": None}, "training"),
        ({"norms": [{"epoch": 4, "gradient_norm_tail": 1.0}]}, "batch_tail"),
    ],
)
def test_an_odd_run_is_named_and_the_others_are_placed(tmp_path, changes, word, alone):
    odd = run(tmp_path / "odd", **{"method": "sam", **changes, "epochs": 10})
    if "epochs" in changes:
        recipe = odd.recipe_file.read_text()
        odd.recipe_file.write_text(recipe.replace("[training]\nepochs = 10", ""))
    others = [] if alone else [run(tmp_path / "good", "sam")]
    said = []
    found = place([odd, *others], skip=said.append)
    assert len(found) == 8 * len(others)
    assert len(said) == 1
    assert word in str(said[0])
    assert str(odd.path) in str(said[0])
    with pytest.raises(DataError, match=word):
        place([*others, odd])


@pytest.mark.parametrize("other", [{"criterion": "ldam"}, {"split": "test"}])
def test_mini_batches_of_another_loss_or_other_images_are_no_gradient_of_the_row(tmp_path, other):
    logged = [{"epoch": 4, "batch": 100, "batch_tail": 5, "gradient_norm": 7.0}]
    folder = run(tmp_path, "sgd", norms=logged)
    assert set(place([folder]).query("epoch == 4 and name == 'all'")["gradient_norm"]) == {7.0}
    for file in folder.spectrum_files():
        write_spectrum(file, [row | other for row in read_spectrum(file)])
    (found,) = place([folder]).query("epoch == 4 and name == 'all'").to_dict("records")
    assert (found["gradient_norm"], found["norm_of"]) == (2.0, "row")
