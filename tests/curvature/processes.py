"""Real processes for tests of what several ranks do: a function or the command, one a rank.

Forked from a server that has torch imported, so that a rank starts in a fraction of a second.
"""

import multiprocessing
import os
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import distributed

from saddlescope.curvature import Ranks

_CONTEXT = multiprocessing.get_context("forkserver")
# torch._dynamo: torch imports it at the first product, which takes most of a second.
_CONTEXT.set_forkserver_preload(
    ["saddlescope.measurement", "saddlescope.cli.main", "torch._dynamo"]
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def on_ranks(size, function, *arguments):
    """`function(ranks, *arguments)` on each rank of a gloo group; its results by rank."""
    port, queue = free_port(), _CONTEXT.SimpleQueue()
    processes = [
        _CONTEXT.Process(target=_call, args=(queue, port, rank, size, function, arguments))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    found = dict(queue.get() for _ in processes)
    for process in processes:
        process.join(60)
    failures = [text for kind, text in found.values() if kind == "error"]
    assert not failures, failures[0]
    return [found[rank][1] for rank in range(size)]


def _call(queue, port, rank, size, function, arguments):
    torch.set_num_threads(1)
    try:
        distributed.init_process_group(
            "gloo",
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=30),  # ranks that wait for each other fail, and say so
        )
        result = "value", function(Ranks(distributed.group.WORLD), *arguments)
    except BaseException:
        result = "error", f"rank {rank}:\n{traceback.format_exc()}"
    queue.put((rank, result))
    distributed.destroy_process_group()


@dataclass
class Command:
    """The command, running on some ranks."""

    processes: list[BaseProcess]
    folder: Path

    def codes(self) -> list[int]:
        """Exit codes by rank; a hang is a failure of the test."""
        until = time.monotonic() + 60
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        return codes

    def stream(self, name, rank) -> str:
        return (self.folder / f"{name}-{rank}").read_text()

    def said(self, name="stderr") -> str:
        """What all ranks wrote, one after the other."""
        return "".join(self.stream(name, rank) for rank in range(len(self.processes)))


def start_command(folder, size, *arguments, **environment) -> Command:
    """`saddlescope ARGUMENTS` on each rank, in a folder, with a launcher's variables."""
    port = free_port()
    processes = [
        _CONTEXT.Process(target=_command, args=(folder, port, rank, size, arguments, environment))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return Command(processes, folder)


def _command(folder, port, rank, size, arguments, environment):
    for number, name in ((1, "stdout"), (2, "stderr")):
        handle = os.open(folder / f"{name}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **environment,
    }
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.argv = ["saddlescope", *arguments]
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1)
    from saddlescope.cli.main import run

    run()
