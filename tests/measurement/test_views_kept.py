"""Views as files: a cut job ends with them all the same, and a finished one is not done again."""

import math
from dataclasses import replace

import pytest

from saddlescope.curvature import MatrixSpec
from saddlescope.errors import Interrupted, UsageError
from saddlescope.measurement import (
    VIEWS,
    Settings,
    ViewSettings,
)
from saddlescope.runs import (
    read_spectrum,
    read_view,
    view_file,
    views_folder,
)
from saddlescope.runs.lock import lock_file
from tests.measurement.small import QUICK, job, target


def contents(path):
    """The table and all files of its views, whatever the table is called."""
    folder = views_folder(path)
    files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: p.read_bytes() for name, p in ({"table": path} | files).items()}


ALL = {"views": list(VIEWS), "view_settings": QUICK, "classes": (1, 2), "seed": (0, 1)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uncut job's files, and the products it took."""
    path, products = tmp_path_factory.mktemp("whole") / "whole.csv", 0

    def count():
        nonlocal products
        products += 1
        return False

    job(path, **ALL).run(should_stop=count)
    return contents(path), products


@pytest.mark.parametrize("share", [0.01, 0.4, 0.97])
def test_a_cut_job_ends_with_the_same_files(tmp_path, whole, share):
    wanted, products = whole
    path, left = tmp_path / "cut.csv", int(share * products)

    def stop():
        nonlocal left
        left -= 1
        return left < 0

    with pytest.raises(Interrupted):
        job(path, **ALL).run(should_stop=stop)
    job(path, **ALL).run()
    assert contents(path) == wanted


def test_a_finished_view_is_not_computed_again(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    job(path, **ALL).run()
    before = contents(path)
    # As a kill leaves them that comes between the last write and letting go.
    locks = [lock_file(written) for written in (path, *(view_file(path, view) for view in VIEWS))]
    for lock in locks:
        lock.touch()

    def refuse(work):
        raise AssertionError(f"{work.subset} computed again")

    for view in VIEWS:
        monkeypatch.setitem(VIEWS, view, replace(VIEWS[view], compute=refuse))
    seen = []
    job(path, **ALL).run(on_view=lambda row, view, reused: seen.append((view, reused)))
    assert len(seen) == 3 * 2 * len(VIEWS)
    assert all(reused for _, reused in seen)
    assert contents(path) == before
    assert not any(lock.exists() for lock in locks)


def test_other_options_seeds_and_rows_are_kept_beside_each_other(tmp_path):
    path = tmp_path / "t.csv"
    for probes, seed, classes in ((3, 0, (1,)), (4, 0, (1,)), (3, 1, (1,)), (3, 0, (0,))):
        options = ViewSettings(probes=probes)
        job(
            path, views=["trace"], view_settings=options, seed=seed, classes=classes, groups=()
        ).run()
    records = read_view(view_file(path, "trace"))
    assert [(r["name"], r["seed"], r["probes"]) for r in records] == [
        ("1", 0, 3), ("1", 0, 4), ("1", 1, 3), ("0", 0, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("view", ["density", "trace", "eigenvalues", "slices", "bootstrap"])
def test_a_view_can_be_stopped_in_its_middle(tmp_path, view):
    path, calls = tmp_path / "t.csv", []
    job(path, groups=()).run()
    with pytest.raises(Interrupted, match=r"class 1; finished rows are in .*t\.csv"):
        job(path, groups=(), views=[view]).run(should_stop=lambda: not calls.append(1))
    assert len(calls) == 1
    assert not view_file(path, view).exists()


def test_rows_measured_in_another_order_end_in_the_order_asked_for(tmp_path):
    path, straight = tmp_path / "t.csv", tmp_path / "straight.csv"
    job(path, classes=(2,), groups=(), views=["trace"]).run()
    for table in (path, straight):
        job(table, classes=(1, 2), groups=("all",), views=["trace"]).run()
    assert contents(path) == contents(straight)


def test_a_view_added_later_is_what_it_would_have_been(tmp_path, whole):
    path = tmp_path / "t.csv"
    job(path, classes=(1, 2), seed=(0, 1)).run()
    for view in reversed(VIEWS):
        job(path, **ALL | {"views": [view]}).run()
    assert contents(path) == whole[0]


def test_seeds_give_the_rows_that_they_give_alone(tmp_path, whole):
    path = tmp_path / "t.csv"
    rows = []
    for seed in (0, 1):
        rows += job(path, classes=(1, 2), seed=seed).run()
    together = job(tmp_path / "both.csv", classes=(1, 2), seed=(0, 1)).run()
    assert [(r["name"], r["seed"]) for r in together] == [
        ("all", 0), ("all", 1), ("1", 0), ("1", 1), ("2", 0), ("2", 1),
    ]  # fmt: skip
    assert sorted(map(str, together)) == sorted(map(str, rows))


def test_views_of_other_weights_are_dropped_with_their_files(tmp_path):
    path = tmp_path / "t.csv"
    job(path, views=["eigenvectors"]).run()
    old = {record["file"] for record in read_view(view_file(path, "eigenvectors"))}
    job(path, views=["eigenvectors"], on=target(digest="other")).run()
    records = read_view(view_file(path, "eigenvectors"))
    assert {record["digest"] for record in records} == {"other"}
    there = {f"eigenvectors/{p.name}" for p in (views_folder(path) / "eigenvectors").iterdir()}
    assert there == {record["file"] for record in records}
    assert not there & old


def test_a_lost_eigenvector_file_is_written_again(tmp_path):
    path = tmp_path / "t.csv"
    job(path, views=["eigenvectors"], groups=()).run()
    before = contents(path)
    (record,) = read_view(view_file(path, "eigenvectors"))
    (views_folder(path) / record["file"]).unlink()
    job(path, views=["eigenvectors"], groups=()).run()
    assert contents(path) == before


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ({"views": ["density", "tracé"]}, "no view 'tracé': choose from density, trace, eig"),
        (
            {"views": ["slices"], "settings": Settings(matrix=MatrixSpec(operator="weingarten"))},
            "'slices' sets eigenvectors against the loss.*not weingarten",
        ),
        (
            {"settings": Settings(matrix=MatrixSpec(parameters=("conv.*",)))},
            r"no trainable parameter matching",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_computed(tmp_path, rest, message):
    with pytest.raises(UsageError, match=message):
        job(tmp_path / "t.csv", **rest)


def test_views_need_a_place():
    with pytest.raises(UsageError, match="name the table with -o"):
        job(None, views=["trace"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resamples": 5}, "resamples = 5 cannot support level = 0.9"),
        ({"steps": 0}, "steps = 0: expected at least 1"),
        ({"radius": -1.0}, "radius = -1.0: expected a positive distance"),
    ],
)
def test_options_out_of_range(changes, message):
    with pytest.raises(UsageError, match=message):
        ViewSettings(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operator": "fisher"}, "operator 'fisher': expected one of hessian"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0"),
        ({"weight_decay": math.inf}, "weight_decay = inf"),
    ],
)
def test_a_matrix_that_cannot_be_meant(changes, message):
    with pytest.raises(UsageError, match=message):
        MatrixSpec(**changes)


def test_which_matrix_is_part_of_a_rows_key(tmp_path):
    path = tmp_path / "t.csv"
    chosen = [
        Settings(),
        Settings(matrix=MatrixSpec(operator="gauss-newton")),
        Settings(matrix=MatrixSpec(parameters=("2.*",))),
        Settings(matrix=MatrixSpec(weight_decay=0.5)),
    ]
    for settings in chosen:
        job(path, settings=settings, groups=()).run()
    rows = read_spectrum(path)
    assert [(r["operator"], r["parameters"], r["weight_decay"]) for r in rows] == [
        ("hessian", "*", 0.0), ("gauss-newton", "*", 0.0), ("hessian", "2.*", 0.0),
        ("hessian", "*", 0.5),
    ]  # fmt: skip
    # An L2 term moves every eigenvalue by its factor.
    assert rows[3]["lambda_max"] - rows[0]["lambda_max"] == pytest.approx(0.5, rel=1e-2)
    reused = []
    for settings in chosen:
        job(path, settings=settings, groups=()).run(on_row=lambda _, old: reused.append(old))
    assert all(reused)
