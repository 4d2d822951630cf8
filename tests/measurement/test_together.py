"""Two processes on one table: the rows of both; a part file that is none; names that are ours."""

import json

import pytest

from saddlescope.errors import DataError, UsageError
from saddlescope.measurement.job import part_file, part_files, read_part, write_part
from saddlescope.runs import read_spectrum, read_view, view_file, write_view
from saddlescope.runs.schema import SPECTRUM_COLUMNS
from tests.measurement.small import job, target


def test_rows_and_views_of_two_jobs_on_one_table(tmp_path):
    """As two processes do: each reads the table before the other has written."""
    path = tmp_path / "t.csv"
    options = {"groups": (), "views": ("trace",)}
    one = job(path, classes=(0, 1), **options)
    two = job(path, classes=(1, 2), **options)
    alone = job(tmp_path / "alone.csv", classes=(0, 1, 2), **options).run()

    def in_between(row, reused):
        if row["name"] == "0":
            two.run()

    one.run(on_row=in_between)
    by_name = {row["name"]: row for row in read_spectrum(path)}
    assert by_name == {row["name"]: row for row in alone}
    assert sorted(r["name"] for r in read_view(view_file(path, "trace"))) == ["0", "1", "2"]
    assert [entry.name for entry in tmp_path.iterdir() if "lock" in entry.name] == []


def test_rows_of_weights_that_are_gone_do_not_come_back(tmp_path):
    path = tmp_path / "t.csv"
    job(path, classes=(0, 1)).run()
    job(path, on=target(digest="other"), classes=(1,)).run()
    assert {row["digest"] for row in read_spectrum(path)} == {"other"}


@pytest.mark.parametrize("damage", ["[]", "{}", "[1]", "cut", "text", "bool"])
def test_a_bad_part_file_changes_nothing(tmp_path, damage):
    path = tmp_path / "t.csv"
    rows = job(path, classes=(0,)).run()
    before = path.read_bytes()
    part = part_file(path, 1)
    write_part(part, rows)
    assert read_part(part) == rows
    broken = {"text": {"lambda_min": "x"}, "bool": {"converged": 1}}
    if damage in broken:
        write_part(part, [rows[0] | broken[damage]])
    else:
        part.write_text(part.read_text()[:-40] if damage == "cut" else damage)
    with pytest.raises(DataError, match=r"saddlescope-part-1"):
        job(path, classes=(0, 1)).run()
    assert path.read_bytes() == before
    assert part.exists()


def test_files_beside_a_table_are_whose_they_are(tmp_path):
    path = tmp_path / "t.csv"
    (tmp_path / "0").mkdir()
    for name in ("2024", "t.csv.part-7", "t.csv.part-x", "7"):
        (tmp_path / name).write_text("[]")
    rows = job(path, classes=(0,)).run()
    write_part(tmp_path / "t.csv.part-3", rows)  # as they once were called
    assert part_files(path) == [tmp_path / "t.csv.part-3"]
    job(path, classes=(0,)).run()
    left = {entry.name for entry in tmp_path.iterdir()}
    assert left == {"0", "2024", "t.csv.part-7", "t.csv.part-x", "7", "t.csv", "t.json"}


def test_a_json_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "config.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match=r"config\.json: is there and holds something else"):
        job(tmp_path / "config.csv")
    with pytest.raises(UsageError, match=r"end its name in \.csv"):
        job(tmp_path / "t.json")
    assert json.loads((tmp_path / "config.json").read_text()) == {"mine": 1}


def test_a_record_cannot_name_a_file_elsewhere_to_be_removed(tmp_path):
    path, precious = tmp_path / "t.csv", tmp_path / "precious.safetensors"
    job(path, classes=(0,), groups=(), views=("eigenvectors",)).run()
    precious.write_text("x")
    index = view_file(path, "eigenvectors")
    (record,) = read_view(index)
    write_view(index, [record | {"file": "eigenvectors/../../precious.safetensors"}])
    other = target(digest="other")
    job(path, on=other, classes=(0,), groups=(), views=("eigenvectors",)).run()
    assert precious.exists()
    assert set(read_spectrum(path)[0]) == set(SPECTRUM_COLUMNS)
