"""Tables 1 to 3: the printed numbers hold together, and runs find their cells."""

import math
import tomllib
from pathlib import Path

import pytest

from saddlescope.errors import UsageError
from saddlescope.reporting import (
    paper_table,
    paper_text,
    select,
    select_runs,
    to_latex,
    to_markdown,
)
from saddlescope.reporting.paper import PAPER_COLUMNS, printed_rows
from saddlescope.runs import RunFolder, append_row, write_json, write_text
from saddlescope.training import load_plan

ROOT = Path(__file__).parents[2]
CLASSES = {
    ("cifar100", 100.0): (35, 35, 30),
    ("cifar100", 50.0): (41, 41, 18),
    ("cifar10", 100.0): (4, 3, 3),
}


@pytest.mark.parametrize("table", [1, 3])
def test_averages_are_those_of_the_shots(table):
    """facts.md: "Avg" is the class-count-weighted mean; a slip of transcription would show."""
    off = []
    for row in printed_rows(table):
        counts = CLASSES[row["data"], row["imbalance_factor"]]
        shots = (row["many"], row["medium"], row["few"])
        mean = sum(n * acc for n, acc in zip(counts, shots, strict=True)) / sum(counts)
        off.append(abs(mean - row["avg"]))
    assert len(off) == {1: 32, 3: 14}[table]
    assert max(off) < 0.25
    assert sorted(off)[len(off) // 2] < 0.06


def test_the_tables_agree_with_one_another():
    """CE on CIFAR-100-LT at IF = 100 stands in Tables 1 and 3."""
    third = {
        (row["method"], row["rho_tail"]): row
        for row in printed_rows(3)
        if row["imbalance_factor"] == 100
    }
    for row in printed_rows(1):
        if row["data"] == "cifar100" and row["loss"] == "ce":
            other = third[row["method"], row["rho_tail"]]
            assert [row[shot] for shot in ("many", "medium", "few", "avg")] == [
                other[shot] for shot in ("many", "medium", "few", "avg")
            ]
    assert len(printed_rows(2)) == 10
    with pytest.raises(UsageError, match="Tables 1, 2 and 3"):
        printed_rows(4)


def make(folder, *, method="sam", seed=0, acc=0.5, epochs=2, state="finished", **changes):
    sections = {
        "data": {"name": "cifar100", "imbalance_factor": 100.0},
        "model": {"name": "resnet8"},
        "loss": {"name": "ce"},
        "method": {"name": method, "rho": 0.05, "rho_head": 0.05, "rho_tail": 0.1},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        sections[section][name] = value
    lines = [f'name = "x"\nseed = {seed}']
    for name, content in sections.items():
        lines.append(f"[{name}]")
        lines += [f"{k} = {v!r}".replace("'", '"') for k, v in content.items()]
    run = RunFolder(folder)
    write_text(run.recipe_file, "\n".join(lines))
    assert tomllib.loads("\n".join(lines))
    write_json(run.run_file, {"state": state, "method": method, "seed": seed, "epochs": epochs})
    for epoch in range(epochs):
        shots = {f"acc_{shot}": acc for shot in ("many", "medium", "few", "avg")}
        append_row(run.metrics_file, {"epoch": epoch, **shots})


def test_runs_find_their_cells(tmp_path):
    make(tmp_path / "a", seed=0, acc=0.50)
    make(tmp_path / "b", seed=1, acc=0.60)
    make(tmp_path / "shorter", seed=2, acc=0.9, epochs=1)  # another setting
    make(tmp_path / "radius", seed=2, acc=0.9, method__rho=0.1)
    make(tmp_path / "loss", seed=2, acc=0.9, loss__name="la")
    make(tmp_path / "data", seed=2, acc=0.9, data__imbalance_factor=50.0)
    make(tmp_path / "cut", seed=2, acc=0.9, state="running")
    make(tmp_path / "imb", method="imbsam", acc=0.4)
    make(tmp_path / "other-imb", method="imbsam", acc=0.3, method__rho_tail=0.05)
    chosen = select_runs([tmp_path])
    frame = paper_table(chosen, 1)
    assert tuple(frame.columns) == PAPER_COLUMNS
    assert len(frame) == 32 * 4

    def cell(frame, method, loss="ce", shot="few", **more):
        rows = frame[
            (frame["method"] == method) & (frame["loss"] == loss) & (frame["shot"] == shot)
        ]
        rows = rows[rows["data"] == "cifar100"]
        for key, value in more.items():
            rows = rows[rows[key] == value]
        (row,) = rows.to_dict("records")
        return row

    sam = cell(frame, "sam")
    assert sam["measured"] == pytest.approx(55.0)
    assert sam["spread"] == pytest.approx(math.sqrt(50.0))
    words = "resnet8, 2 epochs (1 other setting left out)"
    assert (sam["seeds"], sam["settings"], sam["command"]) == (2, words, "")
    assert sam["difference"] == pytest.approx(55.0 - 12.9)
    assert cell(frame, "imbsam")["measured"] == pytest.approx(40.0)
    assert cell(frame, "sam", "la")["seeds"] == 1
    missing = cell(frame, "sse-sam")
    assert (missing["seeds"], missing["settings"]) == (0, "")
    assert math.isnan(missing["measured"])
    assert "--only table1-cifar100-ce-sse-sam-seed9826" in missing["command"]
    third = paper_table(chosen, 3)
    assert cell(third, "imbsam", rho_tail=0.05, imbalance_factor=100.0)[
        "measured"
    ] == pytest.approx(30)
    assert cell(third, "sam", imbalance_factor=50.0)["measured"] == pytest.approx(90.0)


@pytest.mark.parametrize("table", [1, 2, 3])
def test_the_commands_for_gaps_name_runs_that_exist(table):
    names = set()
    for recipe in ("table1-cifar10", "table1-cifar100", "table2-imagenet", "table3"):
        names |= {recipe.run_name for recipe in load_plan(ROOT / f"train/{recipe}.toml").runs}
    frame = paper_table(select([]), table)
    assert (frame["seeds"] == 0).all()
    for command in set(frame["command"]):
        if command.startswith("saddlescope train train/"):
            assert command.split("--only ")[1].split()[0] in names
            assert (ROOT / command.split()[2]).is_file()
        elif "--from" in command:
            assert command.split("--from ")[1].split()[0].rsplit("/", 1)[1] in names
        else:
            assert command.startswith("not run")
            assert table == 2


def test_texts_for_reading(tmp_path):
    make(tmp_path / "a", seed=0, acc=0.50)
    make(tmp_path / "b", seed=1, acc=0.60)
    chosen = select_runs([tmp_path])
    text = paper_text(paper_table(chosen, 1))
    assert len(text) == 32
    row = text[(text["method"] == "SAM") & (text["loss"] == "CE")].iloc[0]
    assert row["Few"] == "55.0 ± 7.1 (12.9)"
    assert text.iloc[0]["Few"] == "— (11.6)"
    assert "55.0 ± 7.1 (12.9)" in to_markdown(text)
    assert r"\toprule" in to_latex(text)
    second = paper_text(paper_table(select([]), 2))
    assert list(second["method"])[:6] == [
        "SGD", "SGD + τ-norm", "SGD + cRT", "SGD + LWS", "DisAlign", "DRO-LT",
    ]  # fmt: skip
    assert second["to fill"].iloc[4].startswith("not run")


def few_of(folder, method="sam"):
    frame = paper_table(select_runs([folder]), 1)
    rows = frame[(frame["method"] == method) & (frame["loss"] == "ce") & (frame["shot"] == "few")]
    (row,) = rows[rows["data"] == "cifar100"].to_dict("records")
    return row


def test_runs_that_differ_in_more_than_their_seed_are_no_spread(tmp_path):
    make(tmp_path / "a", acc=0.5)
    make(tmp_path / "again", acc=0.7)  # the same seed once more
    make(tmp_path / "b", seed=1, acc=0.6)
    make(tmp_path / "gamma", seed=2, acc=0.9, method__gamma=0.1)
    make(tmp_path / "step", seed=3, acc=0.9, data__profile="step")
    row = few_of(tmp_path)
    assert row["measured"] == pytest.approx(55.0)
    assert row["seeds"] == 2


def test_a_run_of_the_data_sets_own_imbalance_belongs_to_its_table(tmp_path):
    make(tmp_path / "a", acc=0.5)
    folder = RunFolder(tmp_path / "a")
    text = folder.recipe_file.read_text(encoding="utf-8")
    folder.recipe_file.write_text(text.replace("imbalance_factor = 100.0\n", ""), encoding="utf-8")
    assert few_of(tmp_path)["seeds"] == 0
    write_json(folder.run_file, folder.run() | {"data": {"counts": [500, 50, 5]}})
    assert few_of(tmp_path)["seeds"] == 1
