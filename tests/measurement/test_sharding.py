"""Several processes measure one table: the same bytes or the same numbers, whatever happens."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from torch import distributed
from typer.testing import CliRunner

from saddlescope.cli.main import app
from saddlescope.curvature.products import strategy
from saddlescope.measurement import Settings, SpectrumJob, foreign_target, run_sharded
from saddlescope.measurement.job import part_files, read_part, write_part
from saddlescope.measurement.sharding import _held, assign
from saddlescope.parallel import Board, RankFailed
from saddlescope.runs import read_spectrum
from tests.curvature.processes import start_command

# 31 samples of classes 0, 1 and 2. With two ranks, rank 0 measures "all" and rank 1 the classes.
NETWORK = """
import os, signal, time
import torch

COUNTS = [17, 13, 1]

class Network(torch.nn.Sequential):
    def forward(self, x):
        if len(x) in (31, 16, 15, 13):
            if os.environ.get("DIE") == os.environ.get("RANK", ""):
                os.kill(os.getpid(), signal.SIGKILL)
            if os.environ.get("RAISE") == os.environ.get("RANK", ""):
                raise RuntimeError("out of luck\\nin two lines")
        time.sleep(float(os.environ.get("SLOW", "0")))
        return super().forward(x)

def network():
    torch.manual_seed(0)
    layers = torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)
    return Network(*layers).double()

def dataset():
    torch.manual_seed(1)
    inputs = torch.randn(31, 4).double()
    if "NAN" in os.environ:
        inputs[-1] = torch.nan
    return inputs, torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
"""
ARGUMENTS = ["spectrum", "--model", "shared_net:network", "--data", "shared_net:dataset",
             "--device", "cpu"]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "shared_net.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("shared_net", None)
    return tmp_path


def alone(path, *more):
    """The command in this process, without a launcher."""
    done = CliRunner().invoke(app, [*ARGUMENTS, "-o", str(path), *more])
    assert done.exit_code == 0, done.stderr
    return done


def start(folder, *more, size=2, **environment):
    return start_command(folder, size, *ARGUMENTS, *more, **environment)


def words(command):
    """What the command said of errors, on all ranks."""
    return [line for line in command.said().splitlines() if line.startswith("saddlescope:")]


def test_rows_are_shared_by_sample_count_longest_first():
    assert assign([31, 17, 13, 1], 2) == [0, 1, 1, 1]
    assert assign([1, 5, 5, 5], 3) == [0, 0, 1, 2]
    assert assign([3, 3], 4) == [0, 1]
    counts = [500 // (1 + row) for row in range(100)]
    owners = assign(counts, 4)
    loads = [0] * 4
    for n, owner in zip(counts, owners, strict=True):
        loads[owner] += n
    assert max(loads) - min(loads) <= 5


def test_kind_of_product_is_chosen_over_all_rows(folder, monkeypatch):
    job = SpectrumJob.plan(
        foreign_target("shared_net:network", "shared_net:dataset"), settings=Settings()
    )
    part = replace(job, subsets=job.subsets[:1])
    # A gradient of one sample takes 3·70 operations; the row "all" alone would save 303 of them.
    monkeypatch.setattr(strategy, "TRACING_PAYS_FROM", 400 * 210)
    assert job.programs()._traces
    assert not part.programs()._traces
    chosen = []
    monkeypatch.setattr(
        SpectrumJob, "run", lambda self, *, keeper, **_: chosen.append((len(self.rows), keeper))
    )
    board = Board(distributed.HashStore(), 1, 2)
    board.post("target", _held(job))
    board.post("finished", [])
    board.post("table", [])
    run_sharded(job, board)
    ((rows, keeper),) = chosen
    assert rows == 3  # of four
    assert keeper.programs._traces


def test_failure_elsewhere_is_noticed_in_the_middle_of_a_row(folder):
    job = SpectrumJob.plan(
        foreign_target("shared_net:network", "shared_net:dataset"), settings=Settings()
    )
    store, asked = distributed.HashStore(), []
    mine, other = Board(store, 0, 2), Board(store, 1, 2)
    assert other.fail("rank 1: no more", 4)
    assert not mine.fail("rank 0: nor here", 1)
    assert not other.fail("rank 1: no more", 4)
    with pytest.raises(RankFailed, match="rank 1: no more") as raised:
        run_sharded(job, mine, should_stop=lambda: asked.append(1))
    assert raised.value.exit_code == 4
    assert asked == [1]  # after the first product


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_that_share_rows_write_the_bytes_of_one(folder, size):
    one = alone(folder / "one.csv")
    command = start(folder, "-o", "table.csv", size=size)
    assert command.codes() == [0] * size
    for suffix in (".csv", ".json"):
        assert (folder / f"table{suffix}").read_bytes() == (folder / f"one{suffix}").read_bytes()
    assert command.said("stdout") == one.stdout
    assert command.said().count("device: cpu") == 1
    assert not part_files(folder / "table.csv")


def test_ranks_that_share_samples_get_the_numbers_of_one(folder):
    alone(folder / "one.csv")
    command = start(folder, "-o", "table.csv", "--shard", "samples")
    assert command.codes() == [0, 0]
    one, two = read_spectrum(folder / "one.csv"), read_spectrum(folder / "table.csv")
    assert [row["n"] for row in two] == [31, 17, 13, 1]
    for a, b in zip(one, two, strict=True):
        for column, value in a.items():
            if isinstance(value, float):
                # A residual is small against the eigenvalue, and so is its rounding.
                assert b[column] == pytest.approx(value, rel=1e-10, abs=1e-10), column
            else:
                assert b[column] == value, column
    assert command.said("stdout") == (folder / "table.csv").read_text()


@pytest.mark.parametrize("shard", ["classes", "samples"])
def test_ranks_with_other_networks_end_with_one_line(folder, shard):
    text = NETWORK.replace("manual_seed(0)", 'manual_seed(int(os.environ.get("RANK", "0")))')
    (folder / "shared_net.py").write_text(text)
    command = start(folder, "-o", "table.csv", "--shard", shard)
    assert command.codes() == [2, 2]
    (line,) = words(command)
    assert "ranks hold other networks, criteria or data: digest" in line
    assert "on rank 0 and" in line


def test_table_without_a_file(folder):
    one = alone(folder / "one.csv")
    command = start(folder)
    assert command.codes() == [0, 0]
    assert command.said("stdout") == one.stdout


def test_not_converged_on_every_rank(folder):
    command = start(folder, "--max-matvecs", "3")
    assert command.codes() == [3, 3]
    assert words(command) == [
        "saddlescope: not converged after 3 products: group all, class 0, class 1, class 2; "
        "raise --max-matvecs or --rtol"
    ]


def test_rank_killed_and_started_again_by_one_gives_the_same_bytes(folder):
    alone(folder / "one.csv")
    command = start(folder, "-o", "table.csv", DIE="1")
    assert command.codes() == [1, -signal.SIGKILL]
    (line,) = words(command)
    assert "rank 1 died" in line
    assert [row["name"] for row in read_spectrum(folder / "table.csv")] == ["all", "0"]
    assert [path.name for path in part_files(folder / "table.csv")] == [
        "table.csv.saddlescope-part-1"
    ]
    again = alone(folder / "table.csv")
    assert again.stderr.count("already measured") == 2
    assert (folder / "table.csv").read_bytes() == (folder / "one.csv").read_bytes()
    assert not part_files(folder / "table.csv")


def test_rows_left_by_many_ranks_are_found_by_few(folder):
    alone(folder / "one.csv")
    rows = read_spectrum(folder / "one.csv")
    table = folder / "table.csv"
    for rank, row in enumerate(rows[:3], start=9):
        write_part(table.with_name(f"table.csv.saddlescope-part-{rank}"), [row])
    command = start(folder, "-o", "table.csv")
    assert command.codes() == [0, 0]
    assert command.stream("stderr", 0).count("already measured") == 3
    assert table.read_bytes() == (folder / "one.csv").read_bytes()
    assert not part_files(table)


@pytest.mark.parametrize("content", ["[", '[{"name": "all"}]', '{"name": "all"}'])
def test_broken_part_file_is_named(folder, content):
    (folder / "table.csv.saddlescope-part-1").write_text(content)
    done = CliRunner().invoke(app, [*ARGUMENTS, "-o", "table.csv"])
    assert done.exit_code == 4
    assert "table.csv.saddlescope-part-1" in done.stderr
    assert (folder / "table.csv.saddlescope-part-1").exists()


def test_nan_in_one_row_ends_all_ranks_with_one_line(folder):
    command = start(folder, "-o", "table.csv", "--groups", "none", "--classes", "0,2,1", NAN="1")
    assert command.codes() == [1, 1]
    (line,) = words(command)
    assert line.startswith("saddlescope: rank 1: the loss (nan)")


def test_nan_in_shared_samples_ends_all_ranks_with_one_line(folder):
    command = start(folder, "-o", "table.csv", "--shard", "samples", "--groups", "none", NAN="1")
    assert command.codes() == [1, 1]
    (line,) = words(command)
    assert line.startswith("saddlescope: rank 0: the loss (nan)")
    assert [row["name"] for row in read_spectrum(folder / "table.csv")] == ["0", "1"]


@pytest.mark.parametrize(("shard", "rank"), [("classes", 1), ("samples", 1), ("samples", 0)])
def test_any_error_on_one_rank_ends_all_with_one_line(folder, shard, rank):
    command = start(folder, "-o", "table.csv", "--shard", shard, RAISE=str(rank))
    assert command.codes() == [2, 2]
    (line,) = words(command)
    assert line.startswith(f"saddlescope: rank {rank}: ")
    assert line.endswith("RuntimeError: out of luck")
    assert "Traceback" not in command.stream("stderr", 1 - rank)


def test_rank_0_killed_and_with_it_the_board(folder):
    command = start(folder, "-o", "table.csv", DIE="0")
    assert command.codes() == [-signal.SIGKILL, 1]
    (line,) = words(command)
    assert "rank 0 died" in line or "rank 1: lost the others" in line
    left = [row["name"] for part in part_files(folder / "table.csv") for row in read_part(part)]
    alone(folder / "one.csv")
    again = alone(folder / "table.csv")
    assert again.stderr.count("already measured") == len(left)
    assert (folder / "table.csv").read_bytes() == (folder / "one.csv").read_bytes()


def test_rank_killed_while_samples_are_shared(folder):
    command = start(folder, "-o", "table.csv", "--shard", "samples", DIE="1")
    assert command.codes() == [1, -signal.SIGKILL]
    (line,) = words(command)
    assert "rank 1 died" in line


@pytest.mark.parametrize(
    ("shard", "number"), [("classes", signal.SIGINT), ("samples", signal.SIGTERM)]
)
def test_signal_to_one_rank_ends_all_with_finished_rows_kept(folder, shard, number):
    more = ["-o", "table.csv", "--shard", shard]
    command = start(folder, *more, SLOW="0.01")
    until = time.monotonic() + 60
    while not (folder / "table.csv").exists() and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(command.processes[1].pid, number)
    assert command.codes() == [130, 130]
    (line,) = words(command)
    assert "run again to go on" in line
    if shard == "samples":  # all stop at the same product, and none is left waiting
        assert line.startswith("saddlescope: rank 0: stopped at")
    assert read_spectrum(folder / "table.csv")
    assert start(folder, *more[:2]).codes() == [0, 0]
    names = [row["name"] for row in read_spectrum(folder / "table.csv")]
    assert names == ["all", "0", "1", "2"]


def test_mistakes_and_plans_are_said_once(folder):
    for more, code, text in [
        (["--classes", "0,9"], 4, "class 9 has no samples"),
        (["--rtol", "7"], 2, "rtol = 7.0"),
        (["--checkpoint", "absent.pt"], 4, "absent.pt"),
    ]:
        command = start(folder, *more)
        assert command.codes() == [code, code]
        (line,) = words(command)
        assert text in line
        assert command.said("stdout") == ""
    command = start(folder, "--rtoll", "7")
    assert command.codes() == [2, 2]
    assert command.said().count("No such option") == 1
    command = start(folder, "--dry-run", "-o", "table.csv")
    assert command.codes() == [0, 0]
    assert len(list(csv.DictReader(command.said("stdout").splitlines()))) == 4
    assert command.said().count("the basis takes") == 1


def test_samples_cannot_be_shared_without_others(folder):
    done = CliRunner().invoke(app, [*ARGUMENTS, "--shard", "samples"])
    assert done.exit_code == 2
    assert "--shard samples needs several processes" in done.stderr
    assert alone(folder / "one.csv", "--shard", "classes").exit_code == 0


def test_under_torchrun(folder):
    alone(folder / "one.csv")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", "-m", "saddlescope", *ARGUMENTS, "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = json.loads(done.stdout)
    assert rows == json.loads((folder / "one.json").read_text())
