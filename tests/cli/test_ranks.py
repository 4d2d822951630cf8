"""What a process learns from its launcher, and what it does with it."""

import json
import signal
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import distributed

from saddlescope.cli.console import choose_device, say
from saddlescope.cli.ranks import sharing
from saddlescope.errors import ExitCode, UsageError
from saddlescope.parallel import Board, Launch, launch, leads, membership
from saddlescope.parallel import ranks as everybody

VARIABLES = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "there", "MASTER_PORT": "1",
}  # fmt: skip


@pytest.fixture
def launched(monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")


def test_only_a_complete_environment_is_a_launcher(launched, monkeypatch):
    assert launch() == Launch(rank=3, size=4, local_rank=1)
    assert not leads()
    monkeypatch.delenv("MASTER_PORT")
    assert launch() is None
    assert leads()


def test_only_rank_0_speaks(launched, monkeypatch, capsys):
    say("rank 3")
    monkeypatch.setenv("RANK", "0")
    say("rank 0")
    assert capsys.readouterr().err == "rank 0\n"


@pytest.mark.usefixtures("launched", "two_gpus")
def test_each_rank_of_a_machine_takes_its_own_gpu(monkeypatch):
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cuda:0") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "2")
    for name in ("auto", "cuda"):
        with pytest.raises(UsageError, match=r"this machine has 2 CUDA devices"):
            choose_device(name)
    with pytest.raises(UsageError, match=r"--device cuda:2"):
        choose_device("cuda")


@pytest.mark.usefixtures("two_gpus")
def test_without_a_launcher_the_device_is_what_was_asked_for():
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(("device", "backend"), [("cuda:1", "nccl"), ("cpu", "gloo")])
def test_backend_goes_with_the_device(monkeypatch, device, backend):
    asked, chosen = [], []
    posted = SimpleNamespace(store=distributed.HashStore(), rank=1, size=2)
    monkeypatch.setattr(membership, "job_board", lambda: posted)
    monkeypatch.setattr("saddlescope.cli.ranks.job_board", lambda: posted)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(
        distributed, "init_process_group", lambda kind, **rest: asked.append((kind, rest["rank"]))
    )
    monkeypatch.setattr(everybody, "Ranks", lambda group: "everybody")
    monkeypatch.setattr(membership, "_watch", lambda board: None)
    monkeypatch.setattr(membership, "_watchers", [])
    assert sharing("samples", torch.device(device)) == "everybody"
    assert asked == [(backend, 1)]
    assert chosen == ([torch.device(device)] if backend == "nccl" else [])


def test_rows_need_no_process_group():
    assert sharing("classes", torch.device("cpu")) is None
    with pytest.raises(UsageError, match="torchrun --nproc-per-node"):
        sharing("samples", torch.device("cpu"))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ("--rtol 0: expected a number > 0", "--rtol 0: expected a number > 0"),  # an option
        ("something else", "rank 0: --rtol 0: expected a number > 0"),
        (None, "rank 0: --rtol 0: expected a number > 0"),  # alive, and nothing is wrong there
    ],
)
def test_an_error_is_one_ranks_unless_all_say_the_same(monkeypatch, other, says):
    store = distributed.HashStore()
    here = Board(store, 0, 2)
    Board(store, 1, 2)
    if other is not None:
        store.set("why/1", json.dumps(other))
    monkeypatch.setattr(membership, "job_board", lambda: here)
    monkeypatch.setattr(membership, "launch", lambda: Launch(0, 2, 0))
    monkeypatch.setattr(membership, "_LAST_SECONDS", 0.2)
    monkeypatch.setattr(membership, "_done", threading.Event())
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    error = UsageError("--rtol 0: expected a number > 0")
    assert membership.end(error) == (says, ExitCode.USAGE)
    assert here.read("failed")["code"] == ExitCode.USAGE
