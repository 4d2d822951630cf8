"""The runs of a sweep as Slurm jobs, through submitit.

Each job is the command that trains its run here. One that is preempted or runs out of time is put
back into the queue and goes on with what is there.
"""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from saddlescope.cli.console import say
from saddlescope.cli.sweep import run_words, unfinished
from saddlescope.errors import UsageError
from saddlescope.runs import own_process

if TYPE_CHECKING:
    from saddlescope.training import Recipe


class TrainingJob:
    """One run, as a job runs it.

    Args:
        words: of the `saddlescope` command.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)

    def __call__(self) -> int:
        """Run to the end; a signal reaches the training too, which then saves its state."""
        return subprocess.run(own_process("saddlescope", self.words), check=True).returncode

    def checkpoint(self, *_: object) -> Any:
        """What submitit queues in place of a job that is cut: the same command goes on."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def submit(
    recipes: "Sequence[Recipe]",
    output: Path,
    *,
    arguments: Sequence[str],
    parameters: str,
    device: str,
) -> None:
    """Submit what is missing, one job a run, and print each run's job; nothing is waited for.

    Args:
        recipes: of the runs.
        output: folder of their folders, and of `slurm/`, the jobs' logs.
        arguments: of `saddlescope train`, up to the options that differ from run to run.
        parameters: "key=value,…" for submitit; "cluster=local" runs them on this machine.
        device: where each computes.

    Raises:
        UsageError: submitit is not installed, or a parameter it does not know.
    """
    try:
        import submitit
    except ImportError:
        raise UsageError("--slurm needs submitit: pip install 'saddlescope[slurm]'") from None
    given = _parameters(parameters)
    waiting = unfinished(recipes, output)
    say(f"{len(recipes)} runs: {len(recipes) - len(waiting)} finished, {len(waiting)} to submit")
    cluster = given.pop("cluster", "slurm")
    try:
        executor = submitit.AutoExecutor(folder=output / "slurm", cluster=cluster)
        executor.update_parameters(name=output.name, **given)
    except (NameError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"--slurm {parameters}: {error}") from None
    for folder in waiting:
        words = [*arguments, *run_words(folder, device)]
        job = executor.submit(TrainingJob(words))
        typer.echo(f"{folder.name} {job.job_id}")


def _parameters(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--slurm {text}: expected KEY=VALUE pairs, such as partition=gpu")
        whole = re.fullmatch(r"[0-9]{1,18}", value.strip())
        found[key.strip()] = int(value) if whole else value.strip()
    return found
