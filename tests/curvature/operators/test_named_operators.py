"""Each matrix by its name against a dense one, for groups and classes, filtered and with L2."""

import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from saddlescope.curvature import (
    LinearCombination,
    TensorSamples,
    bootstrap_spectra,
    class_spectra,
    measure_subset,
    select_subsets,
)
from saddlescope.curvature.operators.named import OF_A_HESSIAN
from saddlescope.errors import UsageError
from saddlescope.runs import OPERATORS
from tests.curvature.networks import convolutional, dense_hessian, images
from tests.curvature.operators.test_gauss_newton import dense_gauss_newton

MODEL = convolutional()
SAMPLES = TensorSamples(*images(30), groups={"tail": (2, 3)})
CRITERION = nn.CrossEntropyLoss()
NAMES = [name for name, _ in MODEL.named_parameters()]
SIZES = [p.numel() for p in MODEL.parameters()]


def part_of(classes):
    chosen = torch.isin(SAMPLES.targets, torch.tensor(classes))
    return SAMPLES.values[chosen], SAMPLES.targets[chosen]


def lengths():
    """‖w_filter‖ of every entry: of a matrix or kernel by row, of a vector as a whole."""
    parts = []
    for p in MODEL.parameters():
        rows = p.detach().flatten(1) if p.dim() > 1 else p.detach()[None]
        parts.append(rows.norm(dim=1).repeat_interleave(rows.shape[1]))
    return torch.cat(parts)


def dense(operator, classes, *, keep=None, weight_decay=0.0):
    """The matrix written out, in the block of the parameters `keep`."""
    inputs, targets = part_of(classes)
    hessian = dense_hessian(MODEL, lambda model: CRITERION(model(inputs), targets))
    gauss_newton = dense_gauss_newton(MODEL, inputs, lambda z: CRITERION(z, targets))
    loss = CRITERION(MODEL(inputs), targets)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, MODEL.parameters())])
    mask = torch.cat(
        [torch.full((s,), keep is None or n in keep) for n, s in zip(NAMES, SIZES, strict=True)]
    )
    shift = weight_decay * torch.eye(int(mask.sum()), dtype=torch.float64)
    weights = torch.cat([p.detach().reshape(-1) for p in MODEL.parameters()])
    hessian, gauss_newton = (m[mask][:, mask] + shift for m in (hessian, gauss_newton))
    g = (gradient + weight_decay * weights)[mask]
    if operator == "hessian":
        return hessian
    if operator == "gauss-newton":
        return gauss_newton
    if operator == "hessian-minus-gauss-newton":
        return hessian - gauss_newton
    if operator == "norm-weighted":
        return torch.outer(d := lengths()[mask], d) * hessian
    alpha = torch.sqrt(1 + g @ g)
    # Eq. 5 as printed: not symmetric, with real eigenvalues.
    return (torch.eye(len(g)).double() - torch.outer(g, g) / alpha**2) @ hessian / alpha


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("group", "changes", "keep"),
    [
        ("tail", {}, None),
        ("3", {"parameters": "6.*"}, ("6.weight", "6.bias")),
        ("tail", {"weight_decay": 0.3}, None),
        ("3", {"weight_decay": 0.3, "parameters": ("0.*", "6.bias")},
         ("0.weight", "0.bias", "6.bias")),
    ],
)  # fmt: skip
def test_ends_are_those_of_the_dense_matrix(operator, group, changes, keep):
    numeric = group.isdecimal()
    frame = class_spectra(
        MODEL, CRITERION, SAMPLES, classes=[3] if numeric else "none",
        groups=() if numeric else (group,), operator=operator, rtol=1e-8, atol=1e-9, **changes,
    )  # fmt: skip
    (row,) = frame.to_dict("records")
    classes = (3,) if numeric else (2, 3)
    matrix = dense(operator, classes, keep=keep, weight_decay=row["weight_decay"])
    wanted = np.linalg.eigvals(matrix.numpy()).real
    # Residuals are below 1e-8·|θ| or 1e-9·‖T‖ and bound the error. ∇²L − G of the last layer,
    # which is linear in its parameters, is zero but for rounding.
    tolerance = 1e-8 * abs(wanted).max() + 1e-12
    assert row["lambda_max"] == pytest.approx(wanted.max(), abs=tolerance)
    assert row["lambda_min"] == pytest.approx(wanted.min(), abs=tolerance)
    assert row["operator"] == operator
    patterns = changes.get("parameters", "*")
    assert row["parameters"] == (patterns if isinstance(patterns, str) else ",".join(patterns))
    assert row["weight_decay"] == changes.get("weight_decay", 0.0)


def test_the_difference_is_what_the_two_parts_leave():
    subset = select_subsets(SAMPLES, classes=[1], groups=())[0]
    whole, part, rest = (
        measure_subset(MODEL, CRITERION, SAMPLES, subset, operator=name)
        for name in ("hessian", "gauss-newton", "hessian-minus-gauss-newton")
    )
    assert whole.loss == part.loss == rest.loss
    assert part.lambda_min_lower <= 1e-12  # positive semidefinite, so what is below 0 is the rest's
    assert whole.lambda_min >= rest.lambda_min - 1e-9


def test_a_bootstrap_resamples_the_same_matrix():
    subset = select_subsets(SAMPLES, classes=[1], groups=())[0]
    options = {"resamples": 19, "operator": "gauss-newton", "parameters": ("0.*", "6.*")}
    row = bootstrap_spectra(MODEL, CRITERION, SAMPLES, subset, **options)
    which = {key: options[key] for key in ("operator", "parameters")}
    measured = measure_subset(MODEL, CRITERION, SAMPLES, subset, **which)
    assert row.lambda_max == measured.lambda_max
    assert (row.draws[:, 1] > -1e-9).all()  # a Hessian's λ_min would not be
    again = bootstrap_spectra(MODEL, CRITERION, SAMPLES, subset, measured=measured, **options)
    np.testing.assert_array_equal(again.draws, row.draws)
    assert again.bootstrap_gradient_cost == row.bootstrap_gradient_cost > row.bootstrap_matvecs


def test_an_unknown_name_is_refused():
    with pytest.raises(UsageError, match=r"operator 'fisher': expected one of hessian, wein"):
        class_spectra(MODEL, CRITERION, SAMPLES, classes="none", operator="fisher")


def test_the_operator_that_contributing_adds(monkeypatch):
    text = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text()
    (code,) = (block for block in text.split("```") if "OF_A_HESSIAN[" in block)
    for table in (OPERATORS, OF_A_HESSIAN):  # put back when the test ends
        monkeypatch.setitem(table, "minus-hessian", None)
    names = {"OPERATORS": OPERATORS, "OF_A_HESSIAN": OF_A_HESSIAN}
    exec(
        textwrap.dedent(code.removeprefix("python")),
        {**names, "LinearCombination": LinearCombination},
    )
    subset = select_subsets(SAMPLES, classes=[1], groups=())[0]
    plain, turned = (
        measure_subset(MODEL, CRITERION, SAMPLES, subset, operator=name, rtol=1e-8)
        for name in ("hessian", "minus-hessian")
    )
    assert turned.operator == "minus-hessian"
    assert turned.lambda_max == pytest.approx(-plain.lambda_min, rel=1e-6)
    assert turned.lambda_min == pytest.approx(-plain.lambda_max, rel=1e-6)
