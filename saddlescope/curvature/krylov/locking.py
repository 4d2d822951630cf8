"""Eigenpairs locked as they converge, and the search for more in what is left; see `eigenpairs`."""

import math

import numpy as np
import torch
from torch import Tensor

from saddlescope.curvature.krylov.bounds import start_component
from saddlescope.curvature.krylov.deflation import Deflated
from saddlescope.curvature.krylov.lanczos import Lanczos, scaled_norm
from saddlescope.curvature.krylov.noise import product_noise
from saddlescope.curvature.krylov.outer import OuterBounds
from saddlescope.curvature.operators import SymmetricOperator
from saddlescope.curvature.products import TYPICAL_PRODUCTS
from saddlescope.stages import counted
from saddlescope.stopping import StopRule


class LockedSearch:
    """Hold what is locked so far, turned so that the low end is the one looked for.

    Args:
        operator: of size n.
        k: pairs wanted.
        sign: 1 for the low end, −1 for the high one.
        stop: how precisely, see `top_eigenpairs`, and how many products of all runs together.

    Attributes:
        values: of what is locked, times the sign, ascending, shape (m,), float64; m at most k.
        vectors: Ritz vectors, shape (m, n), in the operator's dtype.
        residuals: ‖A·x − θ·x‖ of each, shape (m,), float64.
        products: used so far.
    """

    def __init__(self, operator: SymmetricOperator, stop: StopRule, *, k: int, sign: int) -> None:
        self._operator, self._stop, self._k, self._sign = operator, stop, k, sign
        self._ranks = operator.ranks
        self._epsilon = float(torch.finfo(operator.dtype).eps)
        self.vectors = torch.empty((0, operator.size), dtype=operator.dtype, device=operator.device)
        self._images = self.vectors
        self.values = np.empty(0)  # times the sign, ascending
        self.residuals = np.empty(0)
        self._scale = self._noise = 0.0
        self.products = 0
        self._budget = counted(
            "eigenpairs",
            range(1, stop.max_matvecs + 1),
            expect=k * TYPICAL_PRODUCTS,
            text=lambda number: f"product {number}, {len(self.values)} of {k} pairs",
        )

    def run(self, start: Tensor, miss: float, capacity: int) -> float:
        """Look for more in what is left, from a fresh start vector.

        Args:
            start: shape (n,), uniform on the sphere and independent of what is locked.
            miss: probability with which the bound may fail.
            capacity: vectors of the basis.

        Returns:
            The point that no eigenvalue of the rest lies below; −∞ where the run ended because it
            had found more to lock, or because products ran out before any bound was known.
        """
        locked = len(self.values)
        left = self._operator.size - locked
        rest = Deflated(self._operator, self.vectors, self._images)
        lanczos = Lanczos(
            rest,
            rest.start(start),
            capacity=min(capacity, left),
            scale=self._scale,
            project=rest.outer if locked else None,
        )
        outer = OuterBounds(start_component(left, miss), dimension=left)
        edge = -math.inf
        for _ in self._budget:  # of all runs together
            if lanczos.full:
                lanczos.restart(**{"low" if self._sign > 0 else "high": self._k})
            lanczos.step()
            self.products += 1
            self._scale = max(self._scale, lanczos.scale)
            self._noise = max(self._noise, lanczos.noise)
            whole = lanczos.exhausted or lanczos.columns == left
            out_of_products = self.products == self._stop.max_matvecs
            values, coordinates = lanczos.eigh()
            values = self._sign * self._ranks.array_from_first(values)
            order = np.argsort(values, kind="stable")
            outermost, more = self._with(values[order])
            if more == 0:
                outer.update(lanczos, signs=[self._sign])
                edge = outer.low if self._sign > 0 else -outer.high
                if whole or self._ranks.first_says(self.certified(edge)):
                    return edge
                continue
            chosen = coordinates[:, order[:more]]
            residuals = np.maximum(
                lanczos.betas[-1] * np.abs(chosen[-1]), self._epsilon * self._scale
            )
            # All to the finest of their tolerances: what one lacks, another is coupled to.
            small = bool((residuals <= self._tolerance(outermost).min()).all())
            found = len(outermost) == self._k and self._ranks.first_says(small)
            if found or whole or out_of_products:
                self._lock(lanczos, rest, chosen, all_of_them=out_of_products and not found)
                return math.inf if len(self.values) == self._operator.size else -math.inf
        return edge

    def _with(self, values: np.ndarray) -> tuple[np.ndarray, int]:
        """The k outermost of what is locked and of a run's Ritz values, and how many of the run's.

        With k locked, one counts that lies further out than the k-th by half the tolerance; the
        other half is left to the bound.
        """
        locked = self.values
        if len(locked) == self._k:
            values = values[values < locked[-1] - 0.5 * self._tolerance(locked[-1:])[0]]
        both = np.concatenate([locked, values])
        first = np.argsort(both, kind="stable")[: self._k]
        return both[first], int((first >= len(locked)).sum())

    def certified(self, edge: float) -> bool:
        """Return whether nothing but the tolerance lies between the k-th pair and the bound."""
        if len(self.values) < self._k:
            return False
        return bool(edge >= self.values[-1] - self._tolerance(self.values[-1:])[0])

    def _tolerance(self, values: np.ndarray) -> np.ndarray:
        """What a residual may be, shape (j,)."""
        floor = max(max(self._stop.floor, 8 * self._epsilon) * self._scale, self._noise)
        return np.maximum(self._stop.rtol * np.abs(values), floor)

    def _lock(
        self, lanczos: Lanczos, rest: Deflated, weights: np.ndarray, *, all_of_them: bool
    ) -> None:
        """Add a run's Ritz vectors, turn all into Ritz vectors of A, and keep those that pass."""
        vectors = lanczos.combine(weights)
        images = rest.whole_images(vectors, lanczos.image(weights))
        del lanczos
        vectors = torch.cat([self.vectors, vectors])
        images = torch.cat([self._images, images])
        projected = (vectors @ images.T).double().cpu().numpy()
        values, turn = np.linalg.eigh(self._sign * 0.5 * (projected + projected.T))
        values, turn = map(self._ranks.array_from_first, (values, turn))
        values, turn = values[: self._k], turn[:, : self._k]
        rotation = torch.as_tensor(np.ascontiguousarray(turn.T)).to(vectors)
        vectors, images = rotation @ vectors, rotation @ images
        errors = np.array(
            [
                float(scaled_norm(image - self._sign * value * vector))
                for value, vector, image in zip(values, vectors, images, strict=True)
            ]
        )
        errors = np.maximum(self._ranks.array_from_first(errors), self._epsilon * self._scale)
        kept = np.flatnonzero((errors <= self._tolerance(values)) | all_of_them)
        self.vectors, self._images = vectors[kept], images[kept]
        self.values, self.residuals = values[kept], errors[kept]

    def coupling(self) -> float:
        """Return ‖E‖, the norm of all residuals together."""
        largest = float(self.residuals.max())
        if largest == 0.0:
            return 0.0
        values = torch.as_tensor(self._sign * self.values).to(self.vectors)
        errors = (self._images - values[:, None] * self.vectors) / largest
        gram = (errors @ errors.T).double().cpu().numpy()
        square = float(np.linalg.eigvalsh(gram)[-1])
        return largest * math.sqrt(max(1.0, square))

    def noise(self, notes: list[str]) -> float:
        """Measure the rounding, of a product √k·‖(H₃₂ − H₆₄)·y‖ for y midway between the k."""
        if self._operator.dtype == torch.float64:
            return self._noise
        root = math.sqrt(len(self.values))
        vector, product = self.vectors.sum(0) / root, self._images.sum(0) / root
        return self._noise + root * product_noise(
            self._operator, vector, product, self._scale, notes
        )
