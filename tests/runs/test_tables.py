"""Tables survive a round trip to the bit, and broken ones are named by line."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saddlescope.errors import DataError
from saddlescope.runs import (
    SPECTRUM_COLUMNS,
    RunFolder,
    append_row,
    provenance,
    read_rows,
    read_spectrum,
    write_spectrum,
)

ROW = {
    "name": "0", "kind": "class", "n": 130, "confidence": 0.999, "matvecs": 17,
    "stop_rule": "residual", "converged": True, "verdict": "negative-curvature", "run": "a,\"b\"\n",
    "method": "sgd", "split": "train", "criterion": "ce", "epoch": 60, "checkpoint": "last",
    "seed": 0, "dtype": "float32", "device": "cpu", "digest": "abc", "settings": "rtol=0.01",
    "operator": "hessian", "parameters": "*",
}  # fmt: skip
ROW = {column: ROW.get(column, 0.1) for column in SPECTRUM_COLUMNS}


@given(st.floats(allow_nan=False), st.text(st.characters(codec="utf-8", exclude_characters="\r\0")))
def test_round_trip(tmp_path_factory, value, text):
    path = tmp_path_factory.mktemp("table") / "t.csv"
    row = ROW | {"lambda_min": value, "run": text, "lambda_ratio_upper": math.inf, "epoch": None}
    write_spectrum(path, [row, ROW])
    assert read_spectrum(path) == [row, ROW]


def test_nan_survives(tmp_path):
    write_spectrum(tmp_path / "t.csv", [ROW | {"lambda_ratio": math.nan}])
    assert math.isnan(read_spectrum(tmp_path / "t.csv")[0]["lambda_ratio"])
    assert "null" in (tmp_path / "t.json").read_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name,kind", "nome,kind", "missing columns name"),
        (",17,", ",seventeen,", r"t\.csv:2: matvecs = 'seventeen'"),
        (",True,", ",perhaps,", r"t\.csv:2: converged = 'perhaps'"),
    ],
)
def test_broken_tables_are_named(tmp_path, old, new, message):
    path = tmp_path / "t.csv"
    write_spectrum(path, [ROW | {"run": "a"}])
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        read_spectrum(path)


def test_cut_row_is_named(tmp_path):
    path = tmp_path / "t.csv"
    write_spectrum(path, [ROW | {"run": "a"}])
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DataError, match=r"t\.csv:2: the row ends before column"):
        read_spectrum(path)


def test_json_lines_forgive_only_a_cut_last_line(tmp_path):
    path = tmp_path / "m.jsonl"
    append_row(path, {"epoch": 0})
    with open(path, "a") as handle:
        handle.write('{"epo')
    assert read_rows(path) == [{"epoch": 0}]
    path.write_text('{"epo\n{"epoch": 1}\n')
    with pytest.raises(DataError, match=r"m\.jsonl:1:"):
        read_rows(path)
    assert read_rows(tmp_path / "absent") == []


def test_run_folder_says_what_is_missing(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(DataError, match="not a run folder"):
        folder.recipe()
    with pytest.raises(DataError, match="missing"):
        folder.run()
    folder.recipe_file.write_text("=")
    folder.run_file.write_text("[]")
    with pytest.raises(DataError, match="not readable as TOML"):
        folder.recipe()
    with pytest.raises(DataError, match="expected a JSON object"):
        folder.run()


def test_provenance_names_versions_and_no_paths_of_the_machine(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/home/someone/bin/saddlescope", "train", "x.toml"])
    found = provenance(seed=3)
    assert found["command"] == ["saddlescope", "train", "x.toml"]
    assert found["libraries"]["torch"].startswith("2.")
    assert found["seed"] == 3


def test_without_room_for_both_files_both_stay_as_they_were(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    write_spectrum(path, [ROW])
    before = [file.read_bytes() for file in (path, path.with_suffix(".json"))]

    def full(self, content):
        if self.name.startswith(".t.json"):
            raise OSError(28, "No space left on device")
        with open(self, "wb") as handle:
            handle.write(content)

    monkeypatch.setattr(type(path), "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_spectrum(path, [ROW, ROW])
    assert [file.read_bytes() for file in (path, path.with_suffix(".json"))] == before
    assert len(list(tmp_path.iterdir())) == 2
