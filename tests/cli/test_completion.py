"""What the shell offers: names where an option takes a name, and those that the rooms know."""

import os

import pytest
from typer.testing import CliRunner

from saddlescope.cli import completion
from saddlescope.cli.main import app
from saddlescope.experiments import ESCAPE_METHODS
from saddlescope.longtail import DATASETS
from saddlescope.reporting import PICTURES, TABLES
from saddlescope.runs import CLASSIFIERS, OPERATORS, VIEW_COLUMNS


def offered(words):
    """The lines that bash gets for a command line of which the last word is not finished."""
    environment = {
        "_SADDLESCOPE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"saddlescope {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    done = CliRunner().invoke(app, [], env=environment, prog_name="saddlescope")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("spec", ["spectrum"]),
        ("spectrum --strat", ["--strategy"]),
        ("spectrum run --operator h", [name for name in OPERATORS if name.startswith("h")]),
        ("spectrum run --with density,tr", ["density,trace"]),
        ("spectrum run --with trace,trace", []),
        ("spectrum run --groups all,head,t", ["all,head,tail"]),
        ("spectrum run --checkpoint b", ["best"]),
        ("spectrum run --split t", ["train", "test"]),
        ("spectrum run --strategy d", ["double-backward"]),
        ("spectrum run --device c", ["cpu", "cuda"]),
        ("check run --groups f", ["few"]),
        ("train pack", ["package:digits-lt"]),
        ("train --classifier t", [name for name in CLASSIFIERS if name.startswith("t")]),
        ("train r.toml --monitor all,t", ["all,tail"]),
        ("theory escape run --methods sgd,sam-", ["sgd,sam-ext"]),
        ("theory escape run --start s", ["symmetric"]),
        ("theory gradients run --checkpoints last,b", ["last,best"]),
        ("theory prop", ["proposition3", "proposition4", "proposition5-1", "proposition5-2"]),
        ("data inspect ci", ["cifar10", "cifar100"]),
        ("data inspect digits --subset s", ["shuffled"]),
        ("figure table", list(TABLES)),
        ("figure fig2 --formats svg,p", ["svg,pdf", "svg,png"]),
    ],
)
def test_a_word_is_completed(words, expected):
    assert sorted(offered(words)) == sorted(expected)


def test_recipes_are_files_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").touch()
    (tmp_path / "mine.txt").touch()
    (tmp_path / "minor").mkdir()
    assert offered("train mi") == ["mine.toml", "minor/"]
    assert offered(f"train {tmp_path}{os.sep}mine") == [str(tmp_path / "mine.toml")]


def test_the_names_are_those_that_the_rooms_know():
    assert tuple(DATASETS) == completion.DATA_SETS
    assert {*PICTURES, *TABLES, "all"} == set(completion.FIGURES)
    assert sorted(completion.some_of(VIEW_COLUMNS)("")) == sorted(VIEW_COLUMNS)
    assert set(ESCAPE_METHODS) == set(completion.some_of(ESCAPE_METHODS)(""))
