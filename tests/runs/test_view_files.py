"""Views survive a round trip, and broken ones are named by line and column."""

import json
import math

import pytest

from saddlescope.errors import DataError, UsageError
from saddlescope.runs import (
    VIEW_COLUMNS,
    VIEW_IDENTITY,
    read_view,
    view_columns,
    view_file,
    write_view,
)
from saddlescope.runs.schema import SPECTRUM_COLUMNS, SPECTRUM_KEY


def record(view, **changes):
    """A record of a view with a value of the right type in every column."""
    plain = {str: 'a,"b"', int: 7, bool: True, float: 0.1, list: [-3e-300, 4.0]}
    made = {column: plain[kind] for column, kind in view_columns(view).items()}
    tables = {"density": ("nodes", "weights"), "plane": ("losses",)}.get(view, ())
    return made | {column: [[0.1, 2.0], [-3e-300, 4.0]] for column in tables} | changes


@pytest.mark.parametrize("view", VIEW_COLUMNS)
def test_round_trip(tmp_path, view):
    path = view_file(tmp_path / "last-train.csv", view)
    assert path.parent == tmp_path / "last-train.views"
    records = [record(view), record(view, epoch=None, gradient_cost=1 / 3)]
    write_view(path, [dict(reversed(r.items())) for r in records])
    assert read_view(path) == records
    assert list(read_view(path)[0]) == list(view_columns(view))
    assert not list(tmp_path.glob("*.csv"))  # where a run folder looks for spectrum tables


def test_records_with_arrays_are_json_that_others_read(tmp_path):
    path = view_file(tmp_path / "t.csv", "density")
    assert path.suffix == ".json"
    write_view(path, [record("density", sigma=math.nan, nodes=[[1.0, math.nan]] * 2)])
    (plain,) = json.loads(path.read_text())
    assert (plain["sigma"], plain["nodes"]) == (None, [[1.0, None]] * 2)
    (back,) = read_view(path)
    assert math.isnan(back["sigma"])
    assert math.isnan(back["nodes"][0][1])
    assert view_file(tmp_path / "t.csv", "trace").suffix == ".csv"


def test_nan_and_inf_survive_in_csv(tmp_path):
    path = tmp_path / "bootstrap.csv"
    upper = "lambda_ratio_bootstrap_upper"
    write_view(path, [record("bootstrap", lambda_min=math.nan, **{upper: math.inf})])
    (back,) = read_view(path)
    assert math.isnan(back["lambda_min"])
    assert back[upper] == math.inf


def test_a_record_holds_the_key_of_a_row():
    assert set(SPECTRUM_KEY) <= set(VIEW_IDENTITY) <= set(SPECTRUM_COLUMNS)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[\n", "", r"slices\.json: not readable as JSON"),
        ('"agrees": true', '"agrees": 1', r"slices\.json:3: agrees = '1' is not a value"),
        ('"radii": [', '"radii": ["x", ', r"slices\.json:3: radii = .* is not a value"),
        ('"seed": 7', '"seed": 7.5', r"slices\.json:3: seed = '7.5'"),
        ('"measured":', '"mesured":', r"slices\.json:3: the record has no 'measured'"),
    ],
)
def test_broken_json_is_named(tmp_path, old, new, message):
    path = tmp_path / "slices.json"
    write_view(path, [record("slices"), record("slices")])
    head, first, second = path.read_text().partition(",\n")
    path.write_text(head + first + second.replace(old, new) if old != "[\n" else "{")
    with pytest.raises(DataError, match=message):
        read_view(path)


@pytest.mark.parametrize(
    ("view", "changes", "message"),
    [
        ("density", {"density": [1.0]}, "density has 1 values where grid has 2"),
        ("density", {"weights": [[1.0, 2.0]]}, "weights has 1 values where nodes has 2"),
        ("slices", {"losses": [1.0, 2.0, 3.0]}, "losses has 3 values where radii has 2"),
        ("slices", {"radii": [[1.0], [2.0]]}, "radii: expected a list of numbers"),
        ("plane", {"losses": [[1.0, 2.0]]}, "losses has 1 values where v_max_radii has 2"),
        ("plane", {"losses": [[1.0, 2.0], [3.0]]}, "losses: expected lists of numbers, equally"),
        ("plane", {"losses": [1.0, 2.0]}, "losses: expected lists of numbers, equally"),
        ("split", {"curvatures": []}, "curvatures has 0 values where distances has 2"),
    ],
)
def test_arrays_that_do_not_fit_together_are_named(tmp_path, view, changes, message):
    path = tmp_path / f"{view}.json"
    write_view(path, [record(view), record(view, **changes)])
    with pytest.raises(DataError, match=rf"{view}\.json:3: {message}"):
        read_view(path)


def test_json_that_is_no_list_of_objects(tmp_path):
    path = tmp_path / "plane.json"
    path.write_text("{}")
    with pytest.raises(DataError, match="expected a JSON list"):
        read_view(path)
    path.write_text("[3]")
    with pytest.raises(DataError, match=r"plane\.json:2: expected a JSON object"):
        read_view(path)


def test_broken_csv_is_named(tmp_path):
    path = tmp_path / "trace.csv"
    write_view(path, [record("trace")])
    text = path.read_text()
    path.write_text(text.replace(",probes,", ",sonden,"))
    with pytest.raises(DataError, match=r"not a view 'trace': missing columns probes"):
        read_view(path)
    path.write_text(text.replace(",7,7\n", ",7,seven\n"))
    with pytest.raises(DataError, match=r"trace\.csv:2: matvecs = 'seven'"):
        read_view(path)
    with pytest.raises(DataError, match="not readable"):
        read_view(tmp_path / "alignments.csv")


def test_an_unknown_view_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no view 'hessian': choose from density"):
        view_file(tmp_path / "t.csv", "hessian")
