"""Outer eigenpairs against dense spectra in float64; eigenvectors on disk."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from saddlescope.curvature import (
    HessianOperator,
    MatrixOperator,
    extreme_eigenvalues,
    save_eigenvectors,
    top_eigenpairs,
)
from saddlescope.curvature.reference import dense_matrix
from saddlescope.errors import UsageError
from tests.curvature.matrices import network_like, with_spectrum
from tests.curvature.networks import convolutional, images


@given(st.integers(2, 40), st.integers(0, 10**6), st.sampled_from(["max", "min"]), st.data())
def test_against_dense(size, seed, end, data):
    k = data.draw(st.integers(1, min(size, 6)))
    values = np.random.default_rng(seed).normal(size=size)
    matrix = with_spectrum(values, seed)
    found = top_eigenpairs(MatrixOperator(matrix), k=k, end=end, rtol=1e-9, atol=1e-12)
    wanted = np.sort(values)[:k] if end == "min" else np.sort(values)[::-1][:k]
    assert found.converged
    np.testing.assert_allclose(found.values, wanted, atol=1e-8)
    residuals = found.vectors @ matrix - torch.tensor(found.values)[:, None] * found.vectors
    assert (residuals.norm(dim=1).numpy() <= found.residuals + 1e-13).all()
    torch.testing.assert_close(
        found.vectors @ found.vectors.T, torch.eye(k).double(), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("end", ["max", "min"])
def test_on_a_network_the_first_pair_is_the_end(end):
    operator = HessianOperator(convolutional(), nn.CrossEntropyLoss(), [images(20)])
    matrix = dense_matrix(operator)
    values = torch.linalg.eigvalsh(matrix).numpy()
    found = top_eigenpairs(operator, k=4, end=end, rtol=1e-6)
    wanted = values[:4] if end == "min" else values[::-1][:4]
    np.testing.assert_allclose(found.values, wanted, rtol=1e-7)
    assert found.vectors.shape == (4, operator.size)
    ends = extreme_eigenvalues(operator, rtol=1e-6)
    one = ends.lambda_max if end == "max" else ends.lambda_min
    assert found.values[0] == pytest.approx(one.value, rel=1e-9)


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_scaling(factor):
    matrix = with_spectrum(network_like(80))
    plain = top_eigenpairs(MatrixOperator(matrix), k=3)
    scaled = top_eigenpairs(MatrixOperator(factor * matrix), k=3)
    assert scaled.matvecs == plain.matvecs
    np.testing.assert_allclose(scaled.values, factor * plain.values, rtol=1e-9)


def test_running_out_is_a_result():
    operator = MatrixOperator(with_spectrum(np.linspace(-1, 1, 200)))
    found = top_eigenpairs(operator, k=5, rtol=1e-8, max_matvecs=12)
    assert not found.converged
    assert found.matvecs == 12
    assert found.values.shape == (5,)


@st.composite
def repeated(draw):
    """A spectrum with few levels, each taken many times or split into a cluster."""
    size = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    levels = rng.normal(size=draw(st.integers(1, size))) * 10 ** rng.uniform(-3, 3)
    values = rng.choice(levels, size)
    kind = draw(st.sampled_from(["exact", "rounded", "low rank", "clustered"]))
    if kind == "rounded":
        values = np.round(values, 1)
    elif kind == "low rank":
        values *= rng.random(size) < 0.3
    elif kind == "clustered":
        values = values + 1e-7 * np.abs(values).max() * rng.normal(size=size)
    return values


@given(repeated(), st.integers(0, 10**6), st.sampled_from(["max", "min"]), st.data())
def test_repeated_and_clustered_eigenvalues_come_as_often_as_they_are_there(
    values, seed, end, data
):
    k = data.draw(st.integers(1, min(len(values), 8)))
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32]))
    rtol = data.draw(st.sampled_from([1e-2, 1e-4, 1e-7]))
    exact = with_spectrum(values, seed)
    operator = MatrixOperator(exact.to(dtype), exact=exact)
    found = top_eigenpairs(
        operator, k=k, end=end, rtol=rtol, seed=seed, confidence=1 - 1e-9, max_matvecs=2000
    )
    wanted = np.linalg.eigvalsh(exact.numpy())
    wanted = wanted[:k] if end == "min" else wanted[::-1][:k]
    scale = np.abs(values).max()
    assert found.values.shape == found.residuals.shape == (k,)
    assert (found.lower <= wanted + 1e-12 * scale).all()
    assert (wanted <= found.upper + 1e-12 * scale).all()
    inner, outer = (found.upper, found.lower) if end == "min" else (found.lower, found.upper)
    assert np.abs(inner - found.values) == pytest.approx(found.noise, abs=1e-9 * scale)
    identity = found.vectors @ found.vectors.T
    torch.testing.assert_close(
        identity, torch.eye(k).to(dtype), rtol=0, atol=1e3 * torch.finfo(dtype).eps
    )
    if found.converged:
        # Each residual passed, and the bound stands off by its tolerance and the coupling.
        room = np.maximum(rtol * np.abs(wanted), 1e-3 * rtol * scale) + 4 * found.noise
        assert (np.abs(found.values - wanted) <= room).all()
        assert (np.abs(outer - found.values) <= (2 + np.sqrt(k)) * room.max() + found.noise).all()


@pytest.mark.parametrize("end", ["max", "min"])
@pytest.mark.parametrize("k", [1, 3, 5, 6])
def test_a_five_fold_end(k, end):
    """SciPy and LOBPCG find five; one Krylov space shows one, or three as rounding brings them."""
    values = np.concatenate([np.full(5, -1.0), np.linspace(0.0, 2.0, 195)])
    values = values if end == "min" else -values
    found = top_eigenpairs(MatrixOperator(with_spectrum(values)), k=k, end=end, rtol=1e-6)
    wanted = [-1.0] * min(k, 5) + [0.0] * (k - 5)
    assert found.converged
    np.testing.assert_allclose(found.values if end == "min" else -found.values, wanted, atol=1e-9)
    outer = found.lower if end == "min" else -found.upper
    np.testing.assert_allclose(outer, wanted, atol=3e-6)


def test_an_eigenvalue_that_one_krylov_space_skips():
    """Ten residuals below 1 % were taken for the ten outermost eigenvalues: one was missing."""
    values = np.sort(network_like(200))
    found = top_eigenpairs(MatrixOperator(with_spectrum(values)), k=10, end="min")
    assert found.converged
    np.testing.assert_allclose(found.values, values[:10], rtol=1e-2)


@pytest.mark.parametrize("value", [0.0, -2.5])
@pytest.mark.parametrize("k", [1, 4, 6])
def test_a_multiple_of_the_identity(value, k):
    found = top_eigenpairs(MatrixOperator(value * torch.eye(6).double()), k=k)
    assert found.converged
    np.testing.assert_allclose(found.values, value, atol=1e-14)
    np.testing.assert_allclose([found.lower, found.upper], value, atol=1e-8)


def test_misses_are_as_rare_as_stated():
    """At confidence 0.5, and stopping as early as the bound allows, some are missed, not half."""
    misses, trials = 0, 120
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        values = np.sort(np.concatenate([[-1.0] * 3, [-0.97] * 3, rng.uniform(-0.9, 1, 24)]))
        found = top_eigenpairs(
            MatrixOperator(with_spectrum(values, seed)),
            k=2, end="min", rtol=0.02, seed=seed, confidence=0.5,
        )  # fmt: skip
        assert found.converged
        misses += bool((found.lower > values[:2] + 1e-9).any())
    assert misses <= 0.5 * trials


@pytest.mark.parametrize("factor", [1e-300, 1e-170, 1e-162, 1e200])
def test_entries_whose_squares_are_no_numbers(factor):
    values = np.sort(network_like(60))
    operator = MatrixOperator(factor * with_spectrum(values))
    found = top_eigenpairs(operator, k=3, end="min", rtol=1e-6)
    assert found.converged
    np.testing.assert_allclose(found.values / factor, values[:3], rtol=1e-6)
    assert (found.lower / factor <= values[:3] * (1 - 1e-12)).all()
    assert (found.upper / factor >= values[:3] * (1 + 1e-12)).all()


def test_refusals():
    operator = MatrixOperator(with_spectrum([1.0, 2.0]))
    with pytest.raises(UsageError, match="k = 3: expected 1 to 2"):
        top_eigenpairs(operator, k=3)
    with pytest.raises(UsageError, match="end = 'both'"):
        top_eigenpairs(operator, k=1, end="both")
    with pytest.raises(UsageError, match="max_matvecs = 1"):
        top_eigenpairs(operator, k=2, max_matvecs=1)


def test_eigenvectors_are_saved_and_read_back(tmp_path):
    operator = MatrixOperator(with_spectrum(network_like(30)))
    pairs = top_eigenpairs(operator, k=3, end="min")
    path = tmp_path / "deep" / "v.safetensors"
    save_eigenvectors(path, pairs, metadata={"class": 80, "checkpoint": "abc"})
    tensors = load_file(path)
    assert torch.equal(tensors["vectors"], pairs.vectors)
    np.testing.assert_array_equal(tensors["values"].numpy(), pairs.values)
    np.testing.assert_array_equal(tensors["residuals"].numpy(), pairs.residuals)
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {
            "class": "80",
            "checkpoint": "abc",
            "rows": "3 from min inwards",
        }
    ends = extreme_eigenvalues(operator, eigenvectors=True)
    save_eigenvectors(path, ends)
    tensors = load_file(path)
    assert torch.equal(tensors["vectors"], ends.eigenvectors)
    assert tensors["values"].tolist() == [ends.lambda_max.value, ends.lambda_min.value]
    assert [p.name for p in path.parent.iterdir()] == ["v.safetensors"]
    with pytest.raises(UsageError, match="eigenvectors=True"):
        save_eigenvectors(path, extreme_eigenvalues(operator))


def test_equal_eigenvectors_give_equal_files(tmp_path):
    pairs = top_eigenpairs(MatrixOperator(with_spectrum(network_like(10))), k=2)
    words = {letter: letter for letter in "qwertyuiop"}
    contents = set()
    for number in range(4):  # the library writes its header in another order each time
        save_eigenvectors(tmp_path / f"{number}", pairs, metadata=words)
        contents.add((tmp_path / f"{number}").read_bytes())
    assert len(contents) == 1
    with safe_open(tmp_path / "0", "pt") as opened:
        assert opened.metadata() == words | {"rows": "2 from max inwards"}


@pytest.mark.parametrize("end", ["max", "min"])
def test_a_smaller_basis_finds_the_same_pairs(end):
    values = np.random.default_rng(0).normal(size=300)
    operator = MatrixOperator(with_spectrum(values, 0))
    found = top_eigenpairs(operator, k=4, end=end, rtol=1e-6, basis_memory=21 * 300 * 8)
    wanted = np.sort(values)[:4] if end == "min" else np.sort(values)[::-1][:4]
    assert found.converged
    assert found.matvecs > 20
    np.testing.assert_allclose(found.values, wanted, rtol=1e-6)


def test_pairs_that_do_not_fit_are_refused_with_the_number_that_does():
    operator = MatrixOperator(with_spectrum(network_like(80)))
    with pytest.raises(UsageError, match=r"10 eigenpairs need a basis of 18 vectors .* 9 pairs"):
        top_eigenpairs(operator, k=10, basis_memory=17 * 80 * 8)
    assert top_eigenpairs(operator, k=9, basis_memory=17 * 80 * 8).converged
