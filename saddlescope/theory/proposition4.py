"""Proposition 4: where ‖ε_tail‖ ≪ ‖ε_head‖, the perturbation points where the head's does.

With q = ‖ε_tail‖/‖ε_head‖, ψ the angle between the two and ε their sum: exactly

    cos θ_head = (1 + q cos ψ)/r,  cos θ_tail = (cos ψ + q)/r,  r² = 1 + 2q cos ψ + q²,

and to leading order 1 − cos θ_head = ½q² sin²ψ + O(q³), cos θ_tail = cos ψ + q sin²ψ + O(q²). The
paper's "≈" is read as: off by at most q² and 2q, for q <= ½. Whether q is small is a question to
training: `training.norms_every` logs it.
"""

import numpy as np

from saddlescope.theory.statements import Array, Instances, Judgement, Shape, Statement

LARGEST_Q = 0.5


def cosines(q: Array, psi: Array) -> tuple[Array, Array]:
    """Compute both cosines, of θ_head and θ_tail, of plane vectors, exactly, for q < 1.

    Args:
        q: ‖ε_tail‖/‖ε_head‖.
        psi: the angle between them.
    """
    length = np.hypot(1.0 + q * np.cos(psi), q * np.sin(psi))
    return (1.0 + q * np.cos(psi)) / length, (np.cos(psi) + q) / length


def expansion(q: Array, psi: Array) -> tuple[Array, Array]:
    """Leading order of both."""
    sine = np.sin(psi) ** 2
    return 1.0 - 0.5 * q**2 * sine, np.cos(psi) + q * sine


def observed_orders(psi: float = 1.0) -> tuple[float, float]:
    """Orders of the expansions' errors as q → 0, by regression: 3 and 2 are claimed.

    1 − cos θ is evaluated as sin²θ/(1 + cos θ), so that small angles keep their digits.
    """
    q = 10.0 ** np.linspace(-3.0, -1.0, 21)
    head, tail = cosines(q, np.full_like(q, psi))
    sine = q * np.sin(psi) / np.hypot(1.0 + q * np.cos(psi), q * np.sin(psi))
    error_head = np.abs(sine**2 / (1.0 + head) - 0.5 * q**2 * np.sin(psi) ** 2)
    error_tail = np.abs(tail - expansion(q, np.full_like(q, psi))[1])
    return tuple(  # type: ignore[return-value]
        float(np.polyfit(np.log(q), np.log(error), 1)[0]) for error in (error_head, error_tail)
    )


def _decode(points: Array, shape: Shape) -> Instances:
    """Vectors in some dimensions, at every angle and with every q up to `LARGEST_Q`."""
    dimension = shape["dimension"]
    head = points[:, :dimension] - 0.5
    other = points[:, dimension : 2 * dimension] - 0.5
    head /= np.linalg.norm(head, axis=1, keepdims=True)
    other -= (other * head).sum(1, keepdims=True) * head
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    psi = np.pi * points[:, [-2]]
    q = LARGEST_Q * 10.0 ** (-6.0 * points[:, [-1]])
    return {"head": head, "tail": q * (np.cos(psi) * head + np.sin(psi) * other)}


def _judge(instances: Instances, shape: Shape) -> Judgement:
    del shape
    head, tail = instances["head"], instances["tail"]
    whole = head + tail
    long, short, length = (np.linalg.norm(x, axis=1) for x in (head, tail, whole))
    q = short / long
    # Off by a difference of directions: 1 − cos θ = ½‖x/‖x‖ − y/‖y‖‖².
    apart = np.linalg.norm(head / long[:, None] - whole / length[:, None], axis=1)
    cos_tail = (tail * whole).sum(1) / (short * length)
    cos_psi = (tail * head).sum(1) / (short * long)
    slack = np.minimum(q**2 - 0.5 * apart**2, (2.0 * q - np.abs(cos_tail - cos_psi)) * q) / q**2
    return Judgement(q <= LARGEST_Q, slack)


PRINTED = Statement(
    key="proposition4",
    variant="as printed",
    says="q <= ½ ⇒ 1 − cos θ_head <= q² and |cos θ_tail − cos ψ| <= 2q",
    draw_shape=lambda generator: {"dimension": int(generator.integers(2, 21))},
    unknowns=lambda shape: 2 * shape["dimension"] + 2,
    decode=_decode,
    judge=_judge,
)
