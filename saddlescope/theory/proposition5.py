"""Proposition 5: ImbSAM's component along v_min against SAM's and SGD's, with H_tail = rH.

(1) is Theorem 1 with a weaker conclusion; its premise on ImbSAM is not needed. (2) says that where
SAM does not exceed μ times SGD, ImbSAM does not either; as printed it is false, because nothing is
assumed of ∇L_tail. With ∇L_tail = r∇L, ImbSAM is SAM with the radius rρ; then (2) holds after one
step and can fail after two. What holds: while rρ|λ| stays below ImbSAM's gradient norm, its
displacement is smaller than SGD's.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from saddlescope.theory import theorem1
from saddlescope.theory.statements import Instances, Judgement, Shape, Statement
from saddlescope.theory.trajectories import Array, Part, norm, walk

MOST_STEPS = 6
LARGEST_R = 0.5
"""The tail has at most half of the samples."""


def displacements(instances: Instances, steps: int) -> dict[str, Array]:
    """Compute ⟨v_min, w_t − w_0⟩ of three methods, and ImbSAM's least ‖∇L(w'_s)‖, s < t."""
    gradient, eigenvalues = instances["gradient"], instances["eigenvalues"]
    eta, rho, r = instances["eta"], instances["rho"], instances["r"]
    none, share = np.zeros_like(rho), r[:, None]
    tail = instances.get("tail_gradient", share * gradient)
    parts = {
        "sgd": [Part(gradient, eigenvalues, none)],
        "sam": [Part(gradient, eigenvalues, rho)],
        "imbsam": [
            Part(gradient - tail, (1.0 - share) * eigenvalues, none),
            Part(tail, share * eigenvalues, rho),
        ],
    }
    found: dict[str, Array] = {}
    for name, shares in parts.items():
        lengths = []
        for displacement, gradients in walk(shares, eta, steps):
            lengths.append(norm(np.sum(gradients, axis=0)))
            found[name] = displacement[:, 0]  # the last one stays
    return found | {"least_slope": np.min(lengths[:-1], axis=0)}


def _decode(points: Array, shape: Shape, *, aligned: bool) -> Instances:
    dimension = shape["dimension"]
    free = iter(points.T)
    size, length = 10.0 ** (2.0 * next(free) - 1.0), 10.0 ** (2.0 * next(free) - 1.0)
    a, b = 10.0 ** (4.0 * next(free) - 3.0), 10.0 ** (3.0 * next(free) - 2.0)
    r, mu = 10.0 ** (-3.0 * next(free)) / 2.0, 1.0 + 4.0 * next(free)
    share = next(free)
    relative = np.empty((len(points), dimension))
    gradient, tail = np.empty_like(relative), np.empty_like(relative)
    relative[:, 0] = -1.0
    for index in range(dimension):
        if index:
            relative[:, index] = 3.0 * next(free) - 1.0
        # Components of every size: the interesting ones are small along v_min.
        how_much, sign = 10.0 ** (-4.0 * next(free)), np.where(next(free) < 0.5, -1.0, 1.0)
        gradient[:, index] = how_much * sign
        tail[:, index] = 2.0 * next(free) - 1.0
    gradient *= (length / np.linalg.norm(gradient, axis=1))[:, None]
    tail *= (share * length / np.linalg.norm(tail, axis=1))[:, None]
    found = {
        "eigenvalues": relative * size[:, None],
        "gradient": gradient,
        "eta": a / size,
        "rho": b * length / size,
        "r": r,
        "mu": mu,
    }
    return found if aligned else found | {"tail_gradient": tail}


def _any_tail(points: Array, shape: Shape) -> Instances:
    return _decode(points, shape, aligned=False)


def _aligned_tail(points: Array, shape: Shape) -> Instances:
    return _decode(points, shape, aligned=True)


def _near_threshold(points: Array, shape: Shape) -> Instances:
    """Instances of Theorem 1, with a tail."""
    free = points[:, theorem1.unknowns(shape) :]
    found = dict(theorem1.decode(points, shape))
    r = 10.0 ** (-3.0 * free[:, 0]) / 2.0
    return found | {"r": r}


def _meant(instances: Instances) -> npt.NDArray[np.bool_]:
    """Where an instance is one that the proposition speaks of at all."""
    eigenvalues, r = instances["eigenvalues"], instances["r"]
    positive = (instances["eta"] > 0) & (instances["rho"] > 0) & (instances["mu"] >= 1)
    lowest = (eigenvalues[:, 0] < 0) & (eigenvalues.min(1) == eigenvalues[:, 0])
    return positive & lowest & (r > 0) & (r <= LARGEST_R)


def _judge_first(instances: Instances, shape: Shape) -> Judgement:
    """(1): the threshold of Theorem 1 ⇒ SAM >= μ·SGD."""
    of_theorem = theorem1.judge(instances, shape)
    steps = shape["steps"]
    with np.errstate(over="ignore", invalid="ignore"):
        found = displacements(instances, steps)
    mu = instances["mu"]
    unit = np.abs(instances["gradient"][:, 0]) / -instances["eigenvalues"][:, 0]
    slack = (np.abs(found["sam"]) - mu * np.abs(found["sgd"])) / np.where(unit > 0, unit, 1.0)
    premise = np.abs(found["imbsam"]) < mu * np.abs(found["sgd"])
    hypothesis = of_theorem.hypothesis & _meant(instances)
    return Judgement(hypothesis, slack, {"premise on ImbSAM": premise})


def _judge_second(instances: Instances, shape: Shape) -> Judgement:
    """(2): SAM < μ·SGD ⇒ ImbSAM < μ·SGD, in units of SGD's."""
    found = displacements(instances, shape["steps"])
    sgd = np.abs(found["sgd"])
    bound = instances["mu"] * sgd
    hypothesis = _meant(instances) & (np.abs(found["sam"]) < bound) & (sgd > 0)
    slack = (bound - np.abs(found["imbsam"])) / np.where(sgd > 0, sgd, 1.0)
    return Judgement(hypothesis, slack)


def _judge_corrected(instances: Instances, shape: Shape) -> Judgement:
    """ImbSAM < SGD, in units of SGD's, while rρ|λ| < ‖∇L(w'_s)‖."""
    found = displacements(instances, shape["steps"])
    sgd = np.abs(found["sgd"])
    reach = instances["r"] * instances["rho"] * -instances["eigenvalues"][:, 0]
    hypothesis = _meant(instances) & (reach < found["least_slope"]) & (sgd > 0)
    slack = (sgd - np.abs(found["imbsam"])) / np.where(sgd > 0, sgd, 1.0)
    return Judgement(hypothesis, slack)


def _unknowns(shape: Shape) -> int:
    return 7 + 3 + 4 * (shape["dimension"] - 1)


def _draw(generator: np.random.Generator) -> Shape:
    return {
        "dimension": int(generator.integers(1, 9)),
        "steps": int(generator.integers(1, MOST_STEPS + 1)),
    }


FIRST = Statement(
    key="proposition5-1",
    variant="as printed, its premise unused",
    says="λ_min below the threshold ⇒ |⟨v, w̃_t − w_0⟩| >= μ|⟨v, w_t − w_0⟩|",
    draw_shape=theorem1.THEOREM_1.draw_shape,
    unknowns=lambda shape: theorem1.unknowns(shape) + 1,
    decode=_near_threshold,
    judge=_judge_first,
)
SECOND = Statement(
    key="proposition5-2",
    variant="as printed",
    says="SAM < μ·SGD ⇒ ImbSAM < μ·SGD, with H_tail = rH and any ∇L_tail",
    draw_shape=_draw,
    unknowns=_unknowns,
    decode=_any_tail,
    judge=_judge_second,
    expected=False,
)
SECOND_ALIGNED = replace(
    SECOND,
    variant="with the tail's gradient r∇L",
    says="the same, ImbSAM being SAM with the radius rρ",
    decode=_aligned_tail,
)
SECOND_ONE_STEP = replace(
    SECOND_ALIGNED,
    variant="with the tail's gradient r∇L, one step",
    says="the same for t = 1",
    draw_shape=lambda generator: {**_draw(generator), "steps": 1},
    expected=True,
)
SECOND_CORRECTED = replace(
    SECOND_ALIGNED,
    variant="as corrected",
    says="∇L_tail = r∇L, rρ|λ| < ‖∇L(w'_s)‖ for s < t ⇒ ImbSAM < SGD",
    judge=_judge_corrected,
    expected=True,
)
