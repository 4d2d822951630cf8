"""Reads end, whatever is read; and say what it was."""

import os
import re

import pytest

from saddlescope.errors import DataError, UsageError
from saddlescope.runs import (
    SPECTRUM_COLUMNS,
    RunFolder,
    append_row,
    read_json,
    read_rows,
    read_spectrum,
    read_text,
    refuse_foreign_table,
    write_json,
    write_spectrum,
)
from saddlescope.training import load_plan, load_recipe, packaged_recipe
from tests.runs.test_tables import ROW


@pytest.fixture
def fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_devices_pipes_and_large_files_are_refused(fifo, tmp_path):
    (tmp_path / "large").write_bytes(b"x" * 101)
    for path, why in (
        (fifo, "not a regular file"), ("/dev/zero", "not a regular file"), (tmp_path, "directory"),
        (tmp_path / "large", "101 bytes, more than 100"), ("a\0b", "null"), (tmp_path / "no", "No"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=why):
            read_text(path, limit=100)


@pytest.mark.parametrize("parent", ["/dev/zero", "a\\u0000b", "FIFO"])
def test_what_a_recipe_extends_is_read_to_an_end(fifo, tmp_path, parent):
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'extends = "{parent.replace("FIFO", str(fifo))}"\nname = "x"\n')
    with pytest.raises(UsageError, match=r"recipe .*(not a regular file|null)"):
        load_recipe(recipe)


def test_recipes_do_not_extend_one_another_for_ever(tmp_path):
    for number in range(40):
        (tmp_path / f"{number}.toml").write_text(f'extends = "{number + 1}.toml"\n')
    with pytest.raises(UsageError, match="more than 20 recipes"):
        load_recipe(tmp_path / "0.toml")
    (tmp_path / "0.toml").write_text("extends = 3\n")
    with pytest.raises(UsageError, match="expected a path"):
        load_recipe(tmp_path / "0.toml")


@pytest.mark.parametrize(
    "override",
    [
        "loss.tau=" + "[" * 3000 + "]" * 3000,
        "training.seed=" + "9" * 5000,
        "training.seed=9223372036854775808",
        "training.epochs=10000000000",
        "optimizer.eta=1e308",
        "optimizer.clip=1e308",
        "optimizer.eta=inf",
        "method.rho=nan",
        "optimizer.batch_size=\u00b2",
        "loss.reduction='sum'",
        "loss.counts=[1, 2]",
        "loss.name=7",
        "data.image_size=100000000",
        "data.tail_threshold=" + "9" * 400,
        "name='a\u0000b'",
        ".".join("a" * 2000) + "=1",
    ],
    ids=lambda text: text[:24],
)
def test_overrides_that_cannot_be_meant_are_one_short_line(override):
    with pytest.raises(UsageError) as refused:
        packaged_recipe("digits-lt", overrides=[override])
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("loss", "option"),
    [("la", "tau='x'"), ("la", "tau=[1]"), ("vs", "gamma=true"), ("cb", "beta=1.0"),
     ("ldam", "form='raw'"), ("ldam", "scale=1e300"), ("la", "reduction='sum'")],
)  # fmt: skip
def test_options_of_a_loss_are_checked_with_the_recipe(loss, option):
    overrides = [f"loss.name={loss}", f"loss.{option}"]
    with pytest.raises(UsageError, match=re.escape(option.split("=")[0])):
        packaged_recipe("digits-lt", overrides=overrides)


def test_a_sweep_of_too_many_runs_is_refused_before_any_is_made(tmp_path):
    numbers = list(range(400))
    recipe = tmp_path / "s.toml"
    recipe.write_text(
        'extends = "package:digits-lt"\nname = "s"\n[[sweep]]\n'
        f'"training.seed" = {numbers}\n"training.epochs" = {[n + 1 for n in numbers]}\n'
    )
    with pytest.raises(UsageError, match="more than 10,000 runs"):
        load_plan(recipe)


def test_json_without_end_in_its_levels_or_digits(tmp_path):
    path = tmp_path / "run.json"
    for text in ("[" * 100_000 + "]" * 100_000, "9" * 5000, '{"a": ' * 5000):
        path.write_text(text)
        with pytest.raises(DataError, match="not readable as JSON"):
            read_json(path)
        path.write_text(f'{text}\n{{"epoch": 1}}\n')
        with pytest.raises(DataError, match=r"run\.json:1:"):
            read_rows(path)


def test_rows_keep_line_separators_and_lone_surrogates(tmp_path):
    row = {"epoch": 0, "name": "a\u2028b\x85c\ud800"}
    append_row(tmp_path / "m.jsonl", row)
    append_row(tmp_path / "m.jsonl", row)
    assert read_rows(tmp_path / "m.jsonl") == [row, row]
    write_json(tmp_path / "x.json", row)
    assert read_json(tmp_path / "x.json") == row


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",residual,", f",{'x' * 200_000},", "field larger than field limit"),
        (",17,", f",{'9' * 400},", "matvecs"),
        (",17,", ",\u00b2,", "matvecs"),
        ("\n", ",1\n", "more cells|missing"),
    ],
)
def test_damaged_cells_are_named(tmp_path, old, new, message):
    path = tmp_path / "t.csv"
    write_spectrum(path, [ROW | {"run": "a"}])
    text = path.read_text()
    path.write_text(new.join(text.rsplit(old, 1)))
    with pytest.raises(DataError, match=message) as refused:
        read_spectrum(path)
    assert len(str(refused.value)) < 500


def test_a_table_takes_no_place_of_anything_else(tmp_path):
    config = tmp_path / "config.json"
    for content in ({"key": "value"}, [1, 2], [{"lambda_min": 1}], []):
        write_json(config, content)
        with pytest.raises(UsageError, match=r"config\.json: is there and holds something else"):
            refuse_foreign_table(tmp_path / "config.csv", SPECTRUM_COLUMNS)
    with pytest.raises(UsageError, match=r"end its name in \.csv"):
        refuse_foreign_table(tmp_path / "t.json", SPECTRUM_COLUMNS)
    (tmp_path / "d.json").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        refuse_foreign_table(tmp_path / "d.csv", SPECTRUM_COLUMNS)
    for rows in ([], [ROW]):
        write_spectrum(tmp_path / "t.csv", rows)
        refuse_foreign_table(tmp_path / "t.csv", SPECTRUM_COLUMNS)


def test_a_run_called_by_bytes_that_are_no_text_has_a_name(tmp_path):
    folder = RunFolder(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff"))
    assert folder.name == "r\\xff"
