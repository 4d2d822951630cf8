"""Results in a person's hands: numbers, tables, pictures, and what they are called."""

import json
import math
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

matplotlib.use("Agg")

from saddlescope import (
    Estimate,
    GaussNewtonOperator,
    HessianOperator,
    MatrixOperator,
    extreme_eigenvalues,
    spectral_density,
    top_eigenpairs,
)
from saddlescope.curvature import difference, loss_plane, loss_slice, trace
from saddlescope.palette import OTHER

VALUES = torch.tensor([3.0, 1.0, 0.5, -0.25, -2.0, 0.1, 0.2, 0.3]).double()


@pytest.fixture
def operator():
    return MatrixOperator(torch.diag(VALUES))


@pytest.fixture
def hessian():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()
    data = [(torch.randn(9, 3).double(), torch.arange(9) % 2)]
    return HessianOperator(model, nn.CrossEntropyLoss(), data)


@pytest.fixture(params=["ends", "density", "trace", "pairs", "slice", "plane"])
def result(request, operator, hessian):
    direction = torch.ones(hessian.size).double() / math.sqrt(hessian.size)
    other = torch.zeros(hessian.size).double()
    other[0] = 1.0
    return {
        "ends": lambda: extreme_eigenvalues(operator, eigenvectors=True),
        "density": lambda: spectral_density(operator, steps=6, probes=3),
        "trace": lambda: trace(operator, probes=5),
        "pairs": lambda: top_eigenpairs(operator, k=3),
        "slice": lambda: loss_slice(hessian, direction, [-1.0, 0.0, 1.0]),
        "plane": lambda: loss_plane(hessian, direction, other, [-1.0, 0.0, 1.0]),
    }[request.param]()


class TestNumbers:
    def test_an_estimate_stands_where_a_float_may(self):
        one = Estimate(11.9, 11.0, 11.94)
        assert str(one) == repr(one) == f"{one}" == "11.9 [11.0, 11.9]"
        assert float(one) == 11.9
        assert f"{one:.3f}" == "11.900"
        assert abs(Estimate(-2, -3, -1)) == 2
        assert 11 < one < 12
        assert one == 11.9
        assert not one < Estimate(2.0, 1.0, 3.0)
        assert sorted([one, 3.0, Estimate(5.0, 4.0, 6.0)]) == [3.0, 5.0, 11.9]
        assert np.array([one, 1.0], dtype=float).tolist() == [11.9, 1.0]
        assert hash(one) == hash(11.9)

    def test_equal_values_with_other_bounds_are_other_estimates(self):
        assert Estimate(1.0, 0.0, 2.0) == Estimate(1.0, 0.0, 2.0) != Estimate(1.0, 0.5, 2.0)
        assert Estimate(math.nan, 0.0, math.inf) == Estimate(math.nan, 0.0, math.inf)

    def test_no_order_with_what_is_no_number(self):
        with pytest.raises(TypeError):
            assert Estimate(1.0, 0.0, 2.0) < "2"

    @pytest.mark.parametrize(
        ("numbers", "text"),
        [
            ((0.7334912, 0.733490, 0.733493), "0.733491 [0.733490, 0.733493]"),
            ((-0.2633, -0.3, -0.2633), "-0.263 [-0.300, -0.263]"),
            ((math.nan, 1.0, math.inf), "nan [1.00, inf]"),
            ((0.0, 0.0, 0.0), "0.00 [0.00, 0.00]"),
            ((123456.0, 123000.0, 124000.0), "1.23e+05 [1.23e+05, 1.24e+05]"),
            ((123.0, 120.0, 130.0), "123 [120, 130]"),
        ],
    )
    def test_text_has_the_digits_that_tell_the_bounds_apart(self, numbers, text):
        assert str(Estimate(*numbers)) == text

    def test_a_trace_is_written_with_its_standard_error(self, operator):
        found = trace(operator, probes=5)  # diagonal: every probe gives the trace
        assert float(found) == pytest.approx(float(VALUES.sum()))
        assert str(found) == "2.85 ± 0"


class TestTables:
    def test_as_a_dictionary_it_is_json(self, result):
        again = json.loads(json.dumps(result.to_dict()))
        assert again
        assert "eigenvectors" not in again
        assert "vectors" not in again

    def test_as_a_frame_it_has_its_numbers(self, operator):
        frame = extreme_eigenvalues(operator).to_frame().set_index("name")
        assert frame.loc["lambda_max", "value"] == pytest.approx(3.0, rel=1e-2)
        assert (frame["lower"] <= frame["value"]).all()
        assert (frame["value"] <= frame["upper"]).all()
        pairs = top_eigenpairs(operator, k=3).to_frame()
        assert pairs["value"].tolist() == pytest.approx([3.0, 1.0, 0.5])

    def test_a_density_has_the_mass_one(self, operator):
        frame = spectral_density(operator, steps=8, probes=2).to_frame()
        assert np.trapezoid(frame["density"], frame["eigenvalue"]) == pytest.approx(1.0, abs=2e-3)

    def test_a_plane_is_a_row_a_point(self, hessian):
        first, second = torch.eye(hessian.size).double()[:2]
        plane = loss_plane(hessian.objective, first, second, [0.0, 1.0], second_radii=[0, 2, 3])
        row = plane.to_frame().query("first_radius == 1 and second_radius == 2")
        assert row["loss"].tolist() == [plane.losses[1, 1]]


class _Well(HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


class TestPictures:
    def test_axes_come_back_and_a_figure_is_made_only_where_none_is_given(self, result):
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots()
        assert result.plot(axes) is axes
        assert axes.has_data()
        own = result.plot()
        assert own.figure is not figure
        assert own.has_data()
        plt.close("all")

    def test_the_colour_is_the_reports(self, hessian):
        direction = torch.ones(hessian.size).double()
        axes = loss_slice(hessian.objective, direction, [0.0, 1.0]).plot()
        assert axes.lines[0].get_color() == OTHER.color
        assert axes.lines[0].get_xdata().tolist() == [0.0, 1.0]

    def test_the_users_settings_stay(self, operator):
        before = dict(matplotlib.rcParams)
        extreme_eigenvalues(operator).plot()
        assert dict(matplotlib.rcParams) == before

    def test_html_is_well_formed_and_holds_picture_and_table(self, result):
        parser = _Well()
        parser.feed(result._repr_html_())
        assert not parser.open
        assert {"svg", "table"} <= parser.seen

    def test_a_note_is_text_and_not_markup(self, operator):
        from dataclasses import replace

        ends = replace(extreme_eigenvalues(operator), notes=("<b>a</b> & b",))
        assert "<li>&lt;b&gt;a&lt;/b&gt; &amp; b</li>" in ends._repr_html_()

    def test_what_is_open_is_drawn_open(self):
        wide = MatrixOperator(torch.diag(torch.linspace(-1, 1, 400).double()))
        pairs = top_eigenpairs(wide, k=2, max_matvecs=4)
        assert not pairs.converged
        assert math.isinf(pairs.upper[0])
        axes = pairs.plot()
        assert axes.texts  # the arrow of the infinite end
        axes.figure.canvas.draw()


class TestNames:
    def test_an_operator_says_which_matrix_it_is(self, hessian):
        assert repr(hessian) == (
            "HessianOperator of Sequential, CrossEntropyLoss over 9 samples: 26 × 26, float64, cpu"
        )
        part = GaussNewtonOperator(
            hessian.objective.model,
            nn.functional.cross_entropy,
            [(torch.randn(4, 3).double(), torch.arange(4) % 2)],
            parameters="2.*",
            weight_decay=0.1,
        )
        assert repr(part) == (
            "GaussNewtonOperator of Sequential in 2.weight, 2.bias, cross_entropy over 4 samples "
            "+ 0.1·I: 10 × 10, float64, cpu"
        )
        assert repr(difference(part, part)).startswith("LinearCombination of (GaussNewtonOperator")

    def test_results_say_what_they_hold(self, operator):
        assert "negative-curvature" in repr(extreme_eigenvalues(operator))
        assert repr(top_eigenpairs(operator, k=2)).startswith("2 eigenpairs from the max end: 3, 1")
        assert "density of 8 eigenvalues from -2 to 3" in repr(spectral_density(operator, steps=8))

    def test_at_is_the_product(self, operator):
        ones = torch.ones(8).double()
        assert torch.equal(operator @ ones, VALUES)
        assert torch.equal(operator @ torch.eye(8).double(), torch.diag(VALUES))


def test_measuring_loads_no_matplotlib():
    program = (
        "import sys, torch\n"
        "from saddlescope import MatrixOperator, extreme_eigenvalues\n"
        "print(extreme_eigenvalues(MatrixOperator(torch.eye(3))))\n"
        "sys.exit('matplotlib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
