"""What is not ours is never deleted, whatever the folder is called and whatever lies in it."""

import os

import pytest

from saddlescope.errors import DataError, UsageError
from saddlescope.longtail import load_data
from saddlescope.runs import RunFolder, empty_run_folder, write_json
from saddlescope.training import packaged_recipe
from saddlescope.training.record import RunRecord

OURS = (
    "recipe.toml", "run.json", "metrics.jsonl", "norms.jsonl", "checkpoints/last.pt",
    "checkpoints/epoch-007.pt", "checkpoints/.last.pt.a1b2c3d4.tmp", "spectrum/last-train.csv",
    "spectrum/last-train.json", "spectrum/epoch-010-test.csv.saddlescope-part-3",
    "spectrum/.last-train.csv.saddlescope-lock", "spectrum/last-train.views/trace.csv",
    "spectrum/last-train.views/eigenvectors/class-9-1a2b3c4d.safetensors",
    "tensorboard/events.out.tfevents.1.host",
)  # fmt: skip
FOREIGN = (
    "data/x", "src/", "notes.txt", "recipe.toml.bak", "checkpoints/mine.pt", "checkpoints/sub/a",
    "spectrum/config.json", "spectrum/2024", "spectrum/last-train.views/other.csv",
    "tensorboard/plan.txt", ".hidden", "spectrum/last-train.csv.part-x",
)  # fmt: skip
MARK = {"state": "finished", "provenance": {"saddlescope": "0.1.0"}}


def put(folder, name):
    path = folder / name
    if name.endswith("/"):
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return path


def made(folder, *more):
    for name in (*OURS, *more):
        put(folder, name)
    write_json(folder / "run.json", MARK)
    return folder


@pytest.fixture(scope="module")
def data():
    return load_data("digits")


def claim(folder, data, **options):
    recipe = packaged_recipe("digits-lt")
    record = RunRecord(RunFolder(folder), recipe, data, writes=True)
    record.claim(
        {"provenance": {"saddlescope": "x"}}, **({"resume": False, "force": True} | options)
    )


def everything(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_force_removes_every_file_of_ours(tmp_path, data):
    claim(made(tmp_path / "run"), data)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.json", "recipe.toml"}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_run_folder_with_anything_else_in_it_is_left_as_it_is(tmp_path, data, name):
    made(tmp_path / "run", name)
    before = everything(tmp_path)
    with pytest.raises(UsageError, match="nothing was deleted") as refused:
        claim(tmp_path / "run", data)
    assert name.split("/")[0] in str(refused.value)
    assert everything(tmp_path) == before


def test_a_link_in_a_run_folder_is_not_followed(tmp_path):
    put(tmp_path, "precious/checkpoints/last.pt")
    made(tmp_path / "run")
    (tmp_path / "run/spectrum/last-test.csv").symlink_to(tmp_path / "precious")
    with pytest.raises(UsageError, match=r"spectrum/last-test\.csv"):
        empty_run_folder(tmp_path / "run")


@pytest.mark.parametrize("force", [False, True])
def test_a_project_with_a_recipe_is_no_run(tmp_path, data, force):
    """`train recipe.toml -o .` beside data and sources: nothing suggests --force, nothing goes."""
    for name in ("recipe.toml", "data/x", "src/y"):
        put(tmp_path, name)
    before = everything(tmp_path)
    with pytest.raises(UsageError, match="not a run folder") as refused:
        claim(tmp_path, data, force=force)
    assert "--force" not in str(refused.value)
    assert everything(tmp_path) == before


def test_anothers_run_json_is_no_mark_and_a_broken_one_is_an_error(tmp_path, data):
    put(tmp_path, "recipe.toml")
    write_json(tmp_path / "run.json", {"state": "finished", "provenance": {"other": 1}})
    with pytest.raises(UsageError, match="not a run folder"):
        claim(tmp_path, data)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DataError, match="not readable as JSON"):
        claim(tmp_path, data)
    assert sorted(os.listdir(tmp_path)) == ["recipe.toml", "run.json"]


def test_cut_at_the_start_it_can_be_started_again(tmp_path, data):
    """Killed after the mark, in the middle of it, or by a version that wrote the recipe first."""
    recipe = packaged_recipe("digits-lt").to_toml()
    for number, names in enumerate((["run.json"], [".run.json.abcd1234.tmp"], ["recipe.toml"])):
        folder = tmp_path / str(number)
        for name in names:
            put(folder, name)
        if "run.json" in names:
            write_json(folder / "run.json", MARK)
        if "recipe.toml" in names:
            (folder / "recipe.toml").write_text(recipe)
        claim(folder, data, resume=True, force=False)
        assert (folder / "recipe.toml").read_text() == recipe
        assert RunFolder(folder).run()["state"] == "running"
        assert len(os.listdir(folder)) == 2


def test_cut_while_being_emptied_it_can_be_emptied_again(tmp_path, monkeypatch):
    made(tmp_path / "run")
    removed = []

    def unlink(self, missing_ok=False):
        removed.append(self.name)
        if len(removed) == 6:
            raise KeyboardInterrupt
        os.unlink(self)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "unlink", unlink)
        with pytest.raises(KeyboardInterrupt):
            empty_run_folder(tmp_path / "run")
    assert RunFolder(tmp_path / "run").is_marked()
    empty_run_folder(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
