"""Whoever calls from inside an autocast block, or with TF32 allowed, gets the same bits."""

import pytest
import torch
from torch import nn

from saddlescope.curvature import (
    HessianOperator,
    LinearCombination,
    MatrixOperator,
    TensorSamples,
    WeingartenOperator,
    alignment,
    class_spectra,
    extreme_eigenvalues,
    loss_slice,
    spectral_density,
    spectral_energy,
    split_curvature,
    temple_bounds,
    top_eigenpairs,
    trace,
)

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(20) % 3
CRITERION = nn.CrossEntropyLoss()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


def hessian():
    return HessianOperator(network(), CRITERION, [(X, Y)])


def probe(size):
    return torch.linspace(-1.0, 1.3, size)


def ends(operator):
    found = extreme_eigenvalues(operator, rtol=1e-3, eigenvectors=True)
    return [found.lambda_max, found.lambda_min, found.noise, found.eigenvectors.tolist()]


def matrix():
    return MatrixOperator(torch.diag(probe(30)) + 0.1 * torch.outer(probe(30), probe(30)))


def weingarten():
    return WeingartenOperator(hessian())


def table():
    samples = TensorSamples(X, Y)
    rows = class_spectra(network(), CRITERION, samples, classes=[0], groups=("all",))
    return rows[["lambda_max", "lambda_min", "noise"]].to_numpy().tolist()


def split():
    H = hessian()
    found = extreme_eigenvalues(H, eigenvectors=True)
    return repr(split_curvature(found, H))


def energy():
    H = hessian()
    return spectral_energy(H, probe(H.size), steps=10).below(0.0)


def bounds():
    H = hessian()
    return repr(temple_bounds(H, extreme_eigenvalues(H, eigenvectors=True), seed=1))


VERBS = {
    "ends": lambda: ends(hessian()),
    "ends of a matrix": lambda: ends(matrix()),
    "ends of a Weingarten map": lambda: ends(weingarten()),
    "ends of a combination": lambda: ends(LinearCombination([(-1.0, hessian())])),
    "pairs": lambda: list(top_eigenpairs(hessian(), k=2, seed=0).values),
    "density": lambda: list(spectral_density(hessian(), probes=2, steps=6).nodes.ravel()),
    "trace": lambda: trace(hessian(), probes=12).value,
    "energy": energy,
    "temple": bounds,
    "split": split,
    "table": table,
    "slice": lambda: list(loss_slice(hessian(), probe(83), [-0.1, 0.0, 0.1]).losses),
    "alignment": lambda: alignment(probe(83), probe(83).square()),
    "matrix times vector": lambda: matrix().matvec(probe(30)).tolist(),
    "map times vector": lambda: weingarten().matvec(probe(83)).tolist(),
    "directions": lambda: weingarten().principal_directions(probe(83)).tolist(),
    "gradient": lambda: list(hessian().gradient),
}


@pytest.mark.parametrize("verb", VERBS)
def test_an_autocast_block_around_changes_no_bit(verb):
    outside = VERBS[verb]()
    with torch.autocast("cpu", torch.bfloat16):
        assert VERBS[verb]() == outside
        assert torch.is_autocast_enabled("cpu")
