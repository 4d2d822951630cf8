"""How often the intervals miss the truth, against how often they may.

    python -m benchmarks.coverage -o coverage.json

10,000 random problems for each confidence, matrices and small networks, every one with its own
spectrum, start vector, stop rule, precision, warm start and memory, all drawn from fixed seeds. A
miss is a problem in which any of the three intervals (λ_max, λ_min, λ_ratio) excludes the truth:
the eigenvalues a matrix was built from, or those of a network's dense float64 Hessian. The misses
are judged by a one-sided binomial test against 1 − confidence.

A second part constructs the start vector, so that |⟨v_min, q_1⟩| is δ/10, δ or 10·δ: from δ on the
bound must never miss, at no step; below, it may, and how often it does shows how sharp δ is.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from benchmarks.random_problems import Case, NetworkProblem, cases, network_problem, spectrum
from saddlescope.curvature import Ends, MatrixOperator, extreme_eigenvalues
from saddlescope.curvature.krylov.bounds import (
    outer_bound,
    outer_bound_after_restarts,
    start_component,
)
from saddlescope.curvature.krylov.lanczos import Lanczos
from saddlescope.runs import provenance, write_json

CONFIDENCES = (0.9, 0.99, 0.999)
WORST_P = 1e-3
"""A p-value below this in any row of the result is called a failure."""


def missed(ends: Ends, lowest: float, highest: float) -> bool:
    """Whether any of the three intervals excludes the truth."""
    both = ends.lambda_ratio
    if not ends.lambda_max.lower <= highest <= ends.lambda_max.upper:
        return True
    if not ends.lambda_min.lower <= lowest <= ends.lambda_min.upper:
        return True
    if lowest == 0.0:
        return both.upper != math.inf
    true_ratio = abs(highest / lowest)
    # The division itself rounds.
    return not both.lower * (1 - 1e-14) <= true_ratio <= both.upper * (1 + 1e-14)


@dataclass
class Tally:
    """Trials and misses under every label."""

    confidence: float
    counts: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    worst: list[dict[str, Any]] = field(default_factory=list)

    def add(self, case: Case, ends: Ends, index: int) -> None:
        """Count one result."""
        miss = missed(ends, case.lowest, case.highest)
        for word in (("all", "all"), *case.labels.items(), ("ended", ends.stop_rule)):
            entry = self.counts.setdefault(word, [0, 0])
            entry[0] += 1
            entry[1] += miss
        if miss:
            low, high = ends.lambda_min, ends.lambda_max
            beyond = max(
                low.lower - case.lowest, case.lowest - low.upper,
                high.lower - case.highest, case.highest - high.upper,
            )  # fmt: skip
            scale = max(abs(case.lowest), abs(case.highest))
            self.worst.append(
                {"index": index, "beyond": beyond / scale, "noise": ends.noise / scale}
                | {"n": case.operator.size, "ended": ends.stop_rule}
                | case.labels
            )

    def summary(self) -> dict[str, Any]:
        """Rows with the test's p-value, and the ten misses that were furthest off."""
        rows = [
            {"by": by, "name": name, "trials": trials, "misses": misses, "rate": misses / trials}
            | {"p_value": p_value(misses, trials, self.confidence)}
            for (by, name), (trials, misses) in sorted(self.counts.items())
        ]
        return {
            "confidence": self.confidence,
            "stated_rate": round(1 - self.confidence, 12),
            "trials": self.counts[("all", "all")][0],
            "misses": self.counts[("all", "all")][1],
            "p_value": p_value(self.counts[("all", "all")][1], self.counts[("all", "all")][0],
                               self.confidence),
            "failures": [f"{r['by']} {r['name']}" for r in rows if r["p_value"] < WORST_P],
            "rows": [row for row in rows if row["by"] != "all"],
            "furthest_off": sorted(self.worst, key=lambda miss: -miss["beyond"])[:10],
        }  # fmt: skip


def p_value(misses: int, trials: int, confidence: float) -> float:
    """Probability of so many misses or more, if each came with probability 1 − confidence."""
    return float(binomtest(misses, trials, 1 - confidence, alternative="greater").pvalue)


def run_random(
    confidence: float,
    matrices: int,
    networks: list[NetworkProblem],
    *,
    largest: int = 400,
    solve: Callable[..., Ends] = extreme_eigenvalues,
) -> Tally:
    """Measure every case of one confidence and count the misses."""
    tally = Tally(confidence)
    for index, case in cases(confidence, matrices, networks, largest=largest):
        tally.add(case, solve(case.operator, confidence=confidence, **case.options), index)
    return tally


CONSTRUCTED = ("uniform", "semicircle", "geometric", "clustered-ends", "outlier", "hessian-like")
"""Families whose λ_min is simple, so that v_min is one vector."""


def constructed_start(values: np.ndarray, component: float, rng: np.random.Generator) -> np.ndarray:
    """A unit vector with |⟨v_min, q⟩| = component and uniform otherwise, of a diagonal matrix."""
    start = rng.normal(size=len(values))
    lowest = int(np.argmin(values))
    start[lowest] = 0.0
    start *= math.sqrt(1.0 - component**2) / np.linalg.norm(start)
    start[lowest] = component
    return start


def constructed_misses(
    rng: np.random.Generator,
    *,
    share: float,
    confidence: float,
    restarts: bool,
    steps: int = 40,
    delta_factor: float = 1.0,
) -> tuple[int, bool]:
    """(first step at which the bound misses λ_min or 0, whether it still misses at the last one).

    Args:
        rng: of the spectrum and the start.
        share: |⟨v_min, q_1⟩| in units of δ.
        confidence: δ takes half of the misses it allows.
        restarts: with a basis of 8 to 14 vectors.
        steps: most products.
        delta_factor: the bound is told δ times this: 1 is right, more is a lie.
    """
    family = CONSTRUCTED[rng.integers(len(CONSTRUCTED))]
    size = int(rng.integers(40, 201))
    values = spectrum(family, size, rng)
    delta = start_component(size, 0.5 * (1 - confidence))
    start = constructed_start(values, share * delta, rng)
    lanczos = Lanczos(
        MatrixOperator(torch.diag(torch.from_numpy(values))),
        torch.from_numpy(start),
        capacity=int(rng.integers(8, 15)) if restarts else steps,
    )
    first, now = 0, False
    while lanczos.steps < steps and not lanczos.exhausted:
        if lanczos.full:
            lanczos.restart()
        lanczos.step()
        if lanczos.exhausted:
            break
        if lanczos.dropped:
            ritz, vectors = lanczos.eigh()
            couplings = lanczos.betas[-1] * np.abs(vectors[-1])
            bound = outer_bound_after_restarts(
                ritz, couplings, lanczos.dropped, lanczos.betas, delta=delta_factor * delta
            )
        else:
            bound = outer_bound(lanczos.alphas, lanczos.betas, delta=delta_factor * delta)
        # To noise: a miss is more than the rounding by which every interval is widened.
        turned = 2 if lanczos.dropped else 1
        now = (
            values.min()
            < bound - (8 + turned * lanczos.steps) * np.finfo(float).eps * lanczos.scale
        )
        if now and not first:
            first = lanczos.steps
    return first, now


def run_constructed(trials: int, *, delta_factor: float = 1.0) -> list[dict[str, Any]]:
    """Miss rates for start components of δ/10, δ and 10·δ."""
    rows = []
    for confidence in CONFIDENCES:
        for share in (0.1, 1.0, 10.0):
            for restarts in (False, True):
                found = [
                    constructed_misses(
                        np.random.default_rng([7, round(1e6 * (1 - confidence)), seed]),
                        share=share, confidence=confidence, restarts=restarts,
                        delta_factor=delta_factor,
                    )
                    for seed in range(trials)
                ]  # fmt: skip
                at_any, at_last = (sum(bool(f[i]) for f in found) for i in (0, 1))
                rows.append(
                    {"confidence": confidence, "component": f"{share:g} delta"}
                    | {"restarts": restarts, "trials": trials}
                    | {"missed_at_some_step": at_any, "missed_at_last_step": at_last}
                    | {"rate_at_some_step": at_any / trials, "rate_at_last_step": at_last / trials}
                )
    return rows


def main() -> int:
    """Run the study and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=10_000, help="for each confidence")
    parser.add_argument("--networks", type=int, default=300, help="of them")
    parser.add_argument("--constructed", type=int, default=500, help="starts for each setting")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    networks = [network_problem(np.random.default_rng([11, i])) for i in range(options.networks)]
    print(f"{len(networks)} networks after {time.perf_counter() - began:.0f} s", flush=True)
    random = []
    for confidence in CONFIDENCES:
        tally = run_random(confidence, options.problems - len(networks), networks)
        random.append(tally.summary())
        text = {key: random[-1][key] for key in ("confidence", "trials", "misses", "p_value")}
        print(text, random[-1]["failures"], f"{time.perf_counter() - began:.0f} s", flush=True)
    constructed = run_constructed(options.constructed)
    sound = not any(s["failures"] for s in random) and not any(
        row["missed_at_some_step"] for row in constructed if row["component"] != "0.1 delta"
    )
    for row in constructed:
        print(row)
    write_json(
        options.output,
        {
            "provenance": provenance(),
            "seconds": round(time.perf_counter() - began, 1),
            "sound": sound,
            "random": random,
            "constructed": constructed,
        },
    )
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
