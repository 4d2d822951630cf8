"""The comparison itself: the fewest seconds to a verified 1 % at both ends, and what defaults give.

For every case: the truth, then for every tool a sweep over its settings for the cheapest one that
is right on every seed, then the tools in turn, timed with that setting. A tool is timed from the
model to two numbers: building its operator, tracing, its checks, its bounds.
"""

import gc
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.clock import seconds_now
from benchmarks.compare.cases import Cases
from benchmarks.compare.problems import Problem
from benchmarks.compare.record import Record, Unit
from benchmarks.compare.sweep import differentiable, sentence, sweep
from benchmarks.compare.tools import Answer, Setting, Tool, label
from benchmarks.compare.truth import Truth, find_truth

TIMED_SEED = 0
"""Of runs that are timed once."""


def ends_units(
    cases: Cases,
    names: Sequence[str],
    tools: Sequence[Tool],
    *,
    seeds: int = 3,
    repeats: int = 3,
) -> Iterator[Unit]:
    """Units of the comparison.

    Args:
        cases: where problems come from.
        names: of the cases.
        tools: to compare.
        seeds: start vectors that a setting must be right on.
        repeats: timed runs of each tool, in turn.
    """
    for name in names:
        yield truth_unit(cases, name)
        for tool in tools:
            yield _sweep_unit(cases, name, tool, seeds)
        for repeat in range(repeats):
            for tool in tools:
                yield _timed_unit(cases, name, tool, repeat, seeds)


def defaults_units(cases: Cases, names: Sequence[str], tools: Sequence[Tool]) -> Iterator[Unit]:
    """Units of what a user gets who changes nothing."""
    for name in names:
        yield truth_unit(cases, name)
        for tool in tools:
            for setting in tool.defaults:
                yield _default_unit(cases, name, tool, setting)


def truth_unit(cases: Cases, name: str) -> Unit:
    """The truth of a case, and its description."""

    def measure(_: Record) -> dict[str, Any]:
        problem = cases.problem(name)
        return problem.described() | find_truth(problem).row()

    return Unit(f"truth/{name}", measure)


def truth_of(record: Record, name: str) -> Truth:
    """A recorded truth."""
    fields = Truth.__dataclass_fields__
    return Truth(**{key: value for key, value in record[f"truth/{name}"].items() if key in fields})


def _sweep_unit(cases: Cases, name: str, tool: Tool, seeds: int) -> Unit:
    def measure(record: Record) -> dict[str, Any]:
        problem = cases.problem(name)
        if (reason := tool.refuses(problem)) is not None:
            return {"setting": None, "reason": reason}
        return sweep(problem, tool, truth_of(record, name), range(seeds))

    return Unit(f"sweep/{name}/{tool.key}", measure)


def _timed_unit(cases: Cases, name: str, tool: Tool, repeat: int, seeds: int) -> Unit:
    def measure(record: Record) -> dict[str, Any]:
        swept = record[f"sweep/{name}/{tool.key}"]
        if swept["setting"] is None:
            return {"reason": swept["reason"]}
        # One of the sweep's, on which the setting is known to be right: the time that is wanted
        # is that to a verified answer, and peers have no other way to know one.
        seed = repeat % seeds
        problem, truth = cases.problem(name), truth_of(record, name)
        return timed(problem, tool, swept["setting"], seed, truth)

    return Unit(f"ends/{name}/{tool.key}/{repeat}", measure)


def _default_unit(cases: Cases, name: str, tool: Tool, setting: Setting) -> Unit:
    def measure(record: Record) -> dict[str, Any]:
        problem = cases.problem(name)
        if (reason := tool.refuses(problem)) is not None:
            return {"reason": reason}
        found = timed(problem, tool, setting, TIMED_SEED, truth_of(record, name), prepared=False)
        return {"label": label(setting)} | found

    return Unit(f"defaults/{name}/{tool.key}/{label(setting)}", measure)


def timed(
    problem: Problem,
    tool: Tool,
    setting: Setting,
    seed: int,
    truth: Truth,
    *,
    prepared: bool = True,
) -> dict[str, Any]:
    """One run of a tool, on a model of its own.

    Args:
        problem: what to measure.
        tool: with what.
        setting: of the tool.
        seed: of the start vector.
        truth: to hold the answer to.
        prepared: with attention switched to the form that has second derivatives.
    """
    own = problem.fresh()
    before = gradient_seconds(problem)
    gc.collect()
    began = seconds_now(problem.device)
    try:
        with differentiable(problem, attention=prepared):
            answer = tool.ends(own, setting, seed)
    except Exception as error:  # part of the comparison: the tool does not give an answer
        return {"reason": sentence(error), "setting": label(setting)}
    seconds = seconds_now(problem.device) - began
    del own
    gc.collect()
    gradient = statistics.median((*before, *gradient_seconds(problem)))
    return {"setting": label(setting), "seconds": seconds, "gradients": seconds / gradient,
            "gradient_seconds": gradient} | answer_row(answer, truth, tool)  # fmt: skip


def answer_row(answer: Answer, truth: Truth, tool: Tool) -> dict[str, Any]:
    """What came out, and how far from the truth."""
    top, bottom = truth.errors(answer)
    return {
        "products": answer.products,
        "lambda_max": answer.lambda_max,
        "lambda_min": answer.lambda_min,
        "max_error": top,
        "min_error": bottom,
        "verified": truth.meets(answer, both=tool.gives_both),
        "claims": answer.claims,
        "bounds": answer.bounds,
    }


def gradient_seconds(problem: Problem, *, least: float = 0.2) -> list[float]:
    """Seconds of an eager gradient of all the samples, several where one is short."""
    parameters = list(problem.model.parameters())
    found: list[float] = []
    while not found or (sum(found) < least and len(found) < 20):
        began = seconds_now(problem.device)
        for inputs, targets in problem.batches():
            torch.autograd.grad(problem.criterion(problem.model(inputs), targets), parameters)
        found.append(seconds_now(problem.device) - began)
    return found
