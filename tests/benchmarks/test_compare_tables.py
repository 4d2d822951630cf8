"""The tables say what the record holds, and the documentation's are drawn from the results."""

import re
from importlib.util import find_spec

import pytest

from benchmarks import CLONE
from benchmarks.compare import read_record
from benchmarks.compare.tables import TABLES, markdown, tables
from benchmarks.page import filled

RESULTS = sorted((CLONE / "benchmarks" / "results").glob("bench-*.json"))


def run(seconds, *, error=0.001, verified=True, setting="rtol=0.1"):
    return {"seconds": seconds, "gradients": 10 * seconds, "gradient_seconds": 0.1, "products": 20,
            "max_error": 1e-6, "min_error": error, "verified": verified, "setting": setting,
            "claims": "converged", "bounds": None}  # fmt: skip


def cells(table):
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]
    ]


def test_ratios_are_of_medians_to_the_instruments():
    content = {"units": {
        "ends/x/saddlescope/0": run(1.0), "ends/x/saddlescope/1": run(3.0),
        "ends/x/saddlescope/2": run(2.0),
        "ends/x/peer/0": run(5.0, error=0.002),
        "ends/x/peer/1": run(5.0, error=0.02, verified=False),
        "ends/x/power/0": run(1.0) | {"min_error": None},
        "ends/x/none/0": {"reason": "no | setting"},
    }}  # fmt: skip
    rows = {row[1]: row for row in cells(TABLES["ends"][1](content))}
    assert rows["saddlescope"][3] == "2"
    assert rows["saddlescope"][6] == "1"
    assert rows["peer"][6] == "2.50 x"
    # The worst error of the runs, and no "yes" where one of them is off.
    assert rows["peer"][7].endswith("2 %")
    assert rows["peer"][8] == "no"
    assert rows["power"][6] == "one end only"
    assert rows["none"][-1] == "no / setting"


def test_rows_do_not_follow_the_order_of_measurement():
    content = {"units": {
        f"ends/{case}/{tool}/0": run(1.0)
        for case in ("digits", "mlp")
        for tool in ("hessian-eigenthings", "saddlescope (bare)", "saddlescope")
    }}  # fmt: skip
    tools = ["saddlescope", "saddlescope (bare)", "hessian-eigenthings"]
    assert [row[:2] for row in cells(TABLES["ends"][1](content))] == [
        [case, tool] for case in ("mlp", "digits") for tool in tools
    ]


def test_defaults_show_bounds_and_errors():
    content = {"units": {
        "defaults/x/saddlescope/defaults": run(1.0) | {"bounds": [[1, 2], [-3.25, -3]]},
        "defaults/x/peer/k=1": {"reason": "RuntimeError: no derivative"},
    }}  # fmt: skip
    ours, peer = cells(TABLES["defaults"][1](content))
    assert ours[-1] == "[-3.25, -3]"
    assert peer[-1] == "RuntimeError: no derivative"


def test_the_table_of_classes_compares_seconds():
    peers = {f"table/ten/peer/class-{number}": run(3.0) for number in range(10)}
    job = run(20.0) | {"rows": [{"verified": True}] * 9 + [{"verified": False}]}
    rows = cells(TABLES["table"][1]({"units": peers | {"table/ten/saddlescope": job}}))
    assert [row[6] for row in rows] == ["1", "1.50 x"]
    assert [row[7] for row in rows] == ["9 of 10", "10 of 10"]
    assert rows[1][4] == "30"


def test_growth_is_the_slope_beside_the_operation_count():
    units = {
        f"scaling/basis/{m}": {"value": m, "seconds": m**2 * 1e-4} for m in (50, 100, 200, 400)
    }
    (row,) = cells(TABLES["scaling"][1]({"units": units}))
    assert row[0] == "basis"
    assert row[3:] == ["2.00", "2"]


def test_what_was_not_measured_has_no_table():
    assert tables({"units": {}}) == ""
    assert markdown(("a",), []) == ""


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_committed_results_give_tables(path):
    content = read_record(path)
    assert tables(content)
    assert all(process["commit"] for process in content["processes"])


def test_the_page_is_drawn_from_the_results():
    """`python -m benchmarks.page` changes nothing."""
    text = (CLONE / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert filled(text) == text


def test_every_result_has_a_command_that_makes_it():
    page = (CLONE / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for path in (CLONE / "benchmarks" / "results").glob("*.json"):
        assert path.name in page, path.name
    for name in re.findall(r"python -m (benchmarks\.\w+) ", page):
        assert find_spec(name), name
