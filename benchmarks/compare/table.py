"""A table of classes: one setting for all of them, as a user has to choose one.

The cost of a class is not known before it is measured, so a fixed number of steps must do for the
hardest, where a residual stops each class when it is done. The instrument shares one traced
program among the classes.
"""

import gc
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.clock import seconds_now
from benchmarks.compare.cases import TABLE_CLASSES, Cases
from benchmarks.compare.ends import (
    TIMED_SEED,
    gradient_seconds,
    timed,
    truth_of,
    truth_unit,
)
from benchmarks.compare.record import Record, Unit
from benchmarks.compare.sweep import Rehearsal
from benchmarks.compare.tools import Instrument, Setting, Tool, label
from saddlescope.curvature import Objective, Programs

NETWORK = "resnet32"


def table_units(cases: Cases, tools: Sequence[Tool], *, every: bool) -> Iterator[Unit]:
    """Units of the table.

    Args:
        cases: where problems come from.
        tools: to compare; those that rehearse their settings.
        every: also all 100 classes with the instrument, if it is one of them.
    """
    names = [f"{NETWORK}-class-{number}" for number in TABLE_CLASSES]
    for name in names:
        yield truth_unit(cases, name)
    chosen = [tool for tool in tools if tool.rehearses]
    for tool in chosen:
        if not isinstance(tool, Instrument):
            yield _setting_unit(cases, names, tool)
    for tool in chosen:
        if not isinstance(tool, Instrument):
            yield from (_class_unit(cases, name, tool) for name in names)
    if not any(tool.key == "saddlescope" for tool in chosen):
        return
    yield _job_unit(cases, names, {}, key="table/ten/saddlescope")
    if every:
        everything = [f"{NETWORK}-class-{number}" for number in range(100)]
        yield _job_unit(cases, everything, {}, key="table/all/saddlescope")


def _setting_unit(cases: Cases, names: Sequence[str], tool: Tool) -> Unit:
    """The setting of fewest products that is right on every class, by rehearsal."""

    def measure(record: Record) -> dict[str, Any]:
        rehearsals = {name: Rehearsal(cases.problem(name)) for name in names}

        def products(setting: Setting) -> int | None:
            total = 0
            for name, rehearsal in rehearsals.items():
                own = cases.problem(name).fresh()
                answer = tool.ends(own, setting, TIMED_SEED, multiply=rehearsal)
                if not truth_of(record, name).meets(answer):
                    return None
                total += answer.products
            return total

        right: list[tuple[int, int]] = []
        settings = tool.settings()
        for index, setting in enumerate(settings):
            if (total := products(setting)) is not None:
                right.append((total, index))
                if tool.ordered:
                    break
        return {"setting": settings[min(right)[1]] if right else None}

    return Unit(f"table/setting/{tool.key}", measure)


def _class_unit(cases: Cases, name: str, tool: Tool) -> Unit:
    def measure(record: Record) -> dict[str, Any]:
        setting = record[f"table/setting/{tool.key}"]["setting"]
        if setting is None:
            return {"reason": "no setting of the sweep is right on every class"}
        return timed(cases.problem(name), tool, setting, TIMED_SEED, truth_of(record, name))

    return Unit(f"table/ten/{tool.key}/{name}", measure)


def _job_unit(cases: Cases, names: Sequence[str], setting: dict[str, Any], *, key: str) -> Unit:
    """The instrument over many classes, as one job; of each class the time and the answer."""

    def measure(record: Record) -> dict[str, Any]:
        problems = [cases.problem(name) for name in names]
        gradients = [min(gradient_seconds(problem)) for problem in problems]
        gc.collect()
        began = seconds_now(cases.device)
        first = problems[0]
        programs = Programs("auto")
        objective = Objective(first.model, first.criterion, first.batches())
        programs.expect(objective, [len(problem.targets) for problem in problems])
        tool, rows = Instrument(programs), []
        for problem, gradient in zip(problems, gradients, strict=True):
            started = seconds_now(cases.device)
            answer = tool.ends(problem, setting, TIMED_SEED)
            row = {
                "name": problem.name, "samples": len(problem.targets),
                "products": answer.products, "seconds": seconds_now(cases.device) - started,
                "gradient_seconds": gradient, "claims": answer.claims, "bounds": answer.bounds,
                "lambda_max": answer.lambda_max, "lambda_min": answer.lambda_min,
            }  # fmt: skip
            if f"truth/{problem.name}" in record:
                truth = truth_of(record, problem.name)
                row["max_error"], row["min_error"] = truth.errors(answer)
                row["verified"] = truth.meets(answer)
            rows.append(row)
        seconds = seconds_now(cases.device) - began
        return {
            "setting": label(setting), "seconds": seconds, "gradients": seconds / sum(gradients),
            "gradient_seconds": sum(gradients), "traced": programs.traced,
            "products": sum(row["products"] for row in rows), "rows": rows,
        }  # fmt: skip

    return Unit(key, measure)
