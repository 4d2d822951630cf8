"""Keywords of the public functions against the fields of the objects that they stand for."""

from dataclasses import fields

import pytest
import torch

from saddlescope.curvature import (
    MatrixOperator,
    MatrixSpec,
    Search,
    StopRule,
    class_spectra,
    extreme_eigenvalues,
    top_eigenpairs,
)
from saddlescope.curvature.krylov.search import SearchOptions
from saddlescope.curvature.objective.objective import ObjectiveOptions
from saddlescope.curvature.operators.spec import MatrixOptions
from saddlescope.errors import UsageError
from saddlescope.stopping import StopOptions

A = MatrixOperator(torch.diag(torch.arange(-5.0, 20.0).double()))


@pytest.mark.parametrize(
    ("options", "kind"),
    [(StopOptions, StopRule), (SearchOptions, Search), (MatrixOptions, MatrixSpec)],
)
def test_every_field_is_a_keyword_of_the_same_type(options, kind):
    assert options.__annotations__ == {field.name: field.type for field in fields(kind)}


def test_a_matrix_hands_an_objective_all_its_options():
    wanted = {
        "parameters": ("a",), "weight_decay": 0.5, "reduction": "sum", "memory_budget": 7,
        "batch_size": 3, "randomness": "refuse",
    }  # fmt: skip
    assert MatrixSpec(**wanted).of_objective() == wanted
    assert wanted.keys() == ObjectiveOptions.__annotations__.keys()


def test_single_keywords_change_the_rule_that_is_given():
    rule = StopRule(rtol=1e-9, max_matvecs=3)
    assert extreme_eigenvalues(A, rule).matvecs == 3
    assert extreme_eigenvalues(A, rule, max_matvecs=5, confidence=0.9).confidence == 0.9
    assert extreme_eigenvalues(A, rule, max_matvecs=5).matvecs == 5
    assert extreme_eigenvalues(A, rule, Search(eigenvectors=True)).eigenvectors is not None
    assert top_eigenpairs(A, rule, k=2).matvecs <= 3


def test_a_misspelled_keyword_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'rtoll'"):
        extreme_eigenvalues(A, rtoll=1e-3)
    data = (torch.zeros(2, 1), torch.tensor([0, 1]))
    with pytest.raises(TypeError, match="unexpected keyword argument 'tol'"):
        class_spectra(torch.nn.Linear(1, 2).eval(), torch.nn.CrossEntropyLoss(), data, tol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": 0.0}, "rtol = 0.0: expected a number between 0 and 1"),
        ({"rtol": float("nan")}, "rtol = nan"),
        ({"atol": -1.0}, "atol = -1.0: expected a number from 0 to 1"),
        ({"confidence": 1.0}, "confidence = 1.0: expected a probability"),
        ({"max_matvecs": 0}, "max_matvecs = 0: expected at least 1"),
    ],
)
def test_a_rule_out_of_range(options, message):
    with pytest.raises(UsageError, match=message):
        StopRule(**options)


def test_the_floor_follows_rtol_unless_it_is_named():
    assert StopRule(rtol=1e-6).floor == 1e-9
    assert StopRule(rtol=1e-6, atol=1e-3).floor == 1e-3


def test_parameters_may_be_given_as_modules_hand_them_out():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    data = (torch.randn(6, 2), torch.tensor([0, 1] * 3))
    chosen = {"classes": [0, 1], "groups": (), "max_matvecs": 3}
    named, handed = (
        class_spectra(model, torch.nn.CrossEntropyLoss(), data, parameters=last, **chosen)
        for last in ("2.*", model[2].parameters())
    )
    assert named.lambda_max.tolist() == handed.lambda_max.tolist()
