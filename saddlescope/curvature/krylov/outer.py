"""The outer bounds of one Lanczos run: at every step the sharpest that its steps so far allow."""

import math
from collections.abc import Sequence

import numpy as np

from saddlescope.curvature.krylov.bounds import outer_bound, outer_bound_after_restarts
from saddlescope.curvature.krylov.lanczos import Lanczos


class OuterBounds:
    """Bound where no eigenvalue lies while the start vector has its least components.

    Every step's bound holds on the same event, so the sharpest one so far is kept; see `bounds`.

    Args:
        delta: the assumed least start component along either extreme eigenvector.
        dimension: of the space that the start vector was drawn from.

    Attributes:
        low: no eigenvalue lies below.
        high: no eigenvalue lies above.
    """

    def __init__(self, delta: float, *, dimension: int) -> None:
        self._delta, self._dimension = delta, dimension
        self.low, self.high = -math.inf, math.inf

    def update(self, lanczos: Lanczos, *, signs: Sequence[int] = (1, -1)) -> None:
        """Take the run's last step into account.

        Args:
            lanczos: the run.
            signs: of the ends to bound, 1 for the low one, −1 for the high one.
        """
        values, vectors = lanczos.eigh()
        if lanczos.columns == self._dimension:  # all eigenvalues, to noise
            self.low, self.high = float(values[0]), float(values[-1])
            return
        known: dict[str, float] = {"delta": self._delta, "rounding": lanczos.noise}
        if lanczos.dropped:
            coupled = lanczos.betas[-1] * np.abs(vectors[-1])
            dropped = np.asarray(lanczos.dropped)
            found = {
                sign: sign
                * outer_bound_after_restarts(
                    sign * values, coupled, sign * dropped, lanczos.betas, **known
                )
                for sign in signs
            }
        else:
            alphas = np.asarray(lanczos.alphas)
            found = {
                sign: sign * outer_bound(sign * alphas, lanczos.betas, **known) for sign in signs
            }
        # A bound that a Ritz value has crossed was a miss, one of those 1 − confidence allows.
        if 1 in found:
            self.low = max(self.low, found[1]) if self.low <= values[0] else found[1]
        if -1 in found:
            self.high = min(self.high, found[-1]) if self.high >= values[-1] else found[-1]
