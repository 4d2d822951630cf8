"""Counterexamples: found by random search, made worse by local search, then made simple.

The local search draws around the worst point of the unit cube and narrows; simplifying rounds one
number of the instance after the other as long as hypothesis and violation stay.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from saddlescope.stages import counted
from saddlescope.theory.statements import BATCH, Instances, Shape, Statement, from_plain, plain

_NEIGHBOURS = 500
_SIMPLE_SHAPES = 40


def find_counterexample(
    statement: Statement, *, trials: int = 100_000, rounds: int = 40, seed: int = 0
) -> dict[str, Any] | None:
    """Find the worst instance of the simplest shape that has one, or None.

    Args:
        statement: which.
        trials: random instances, in all.
        rounds: of local search, each of some hundred neighbours.
        seed: of both.

    Returns:
        The instance as plain data, with its `slack`.
    """
    generator = np.random.default_rng(seed)
    drawn = [statement.draw_shape(generator) for _ in range(_SIMPLE_SHAPES)]
    shapes = sorted(
        {tuple(sorted(shape.items())) for shape in drawn}, key=lambda s: [v for _, v in s]
    )
    each = max(BATCH, trials // len(shapes))
    for items in counted("shape", shapes):
        shape = dict(items)
        point, slack = _worst(statement, shape, generator.random((each, statement.unknowns(shape))))
        width = 0.2
        for _ in counted("round", range(rounds)):
            around = point + width * generator.standard_normal((_NEIGHBOURS, len(point)))
            near, found = _worst(statement, shape, np.clip(around, 0.0, 1.0))
            if found < slack:
                point, slack = near, found
            else:
                width *= 0.7
        if slack < 0:
            instance = plain(statement.decode(point[None], shape), 0, shape)
            return simplify(statement, instance, shape)
    return None


def violates(statement: Statement, instance: Mapping[str, Any], shape: Shape) -> float | None:
    """Return the slack of an instance that meets the hypothesis alone; None of others."""
    found = statement.judge(from_plain(instance, shape), shape)
    if not found.hypothesis[0] or not found.slack[0] < 0:
        return None
    return float(found.slack[0])


def simplify(statement: Statement, instance: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """Round every number as far as the instance stays a counterexample, clear of rounding."""
    current = {key: value for key, value in instance.items() if key not in shape}
    clear = min(-1e-3, 0.1 * (violates(statement, current, shape) or -1e-2))
    for key, value in list(current.items()):
        array = np.array(value, dtype=np.float64)
        for place in np.ndindex(array.shape):
            for candidate in _rounder(float(array[place])):
                changed = array.copy()
                changed[place] = candidate
                trial = current | {key: changed.tolist()}
                with np.errstate(all="ignore"):
                    slack = violates(statement, trial, shape)
                if slack is not None and slack <= clear:
                    array, current = changed, trial
                    break
    slack = violates(statement, current, shape)
    return {**shape, **current, "slack": slack}


def _rounder(value: float) -> list[float]:
    """Simpler numbers near a value, the simplest first."""
    if value == 0 or not math.isfinite(value):
        return []
    exponent = math.floor(math.log10(abs(value)))
    sign = math.copysign(1.0, value)
    simple = [0.0, sign, sign * float(f"1e{exponent}")]
    return simple + [float(f"{value:.{digits}e}") for digits in (0, 1)]


def _worst(statement: Statement, shape: Shape, points: np.ndarray) -> tuple[np.ndarray, float]:
    least, best = math.inf, points[0]
    for part in np.array_split(points, math.ceil(len(points) / BATCH)):
        instances: Instances = statement.decode(part, shape)
        with np.errstate(all="ignore"):
            found = statement.judge(instances, shape)
        slack = np.where(found.hypothesis & np.isfinite(found.slack), found.slack, np.inf)
        index = int(slack.argmin())
        if slack[index] < least:
            least, best = float(slack[index]), part[index]
    return best, least
