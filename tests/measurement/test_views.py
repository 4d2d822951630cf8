"""Views against dense matrices and formulas."""

import math
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from saddlescope.curvature import MatrixSpec, StopRule, bootstrap_spectra, select_subsets
from saddlescope.curvature.krylov.density import probe_start
from saddlescope.curvature.seeds import derived_seed
from saddlescope.measurement import (
    VIEWS,
    Settings,
    UpdateRule,
    View,
    ViewSettings,
    update_directions,
)
from saddlescope.runs import (
    OPERATORS,
    VIEW_COLUMNS,
    columns,
    read_spectrum,
    read_view,
    view_columns,
    view_file,
    views_folder,
)
from tests.measurement.small import QUICK, Dense, job, target

CLASS = (1,)
FINE = StopRule(rtol=1e-8, atol=1e-9)


def measured(tmp_path, *views, options=QUICK, **rest):
    """The records of each view of class 1 and of all samples, read back."""
    path = tmp_path / "t.csv"
    job(path, views=views, view_settings=options, **rest).run()
    return [read_view(view_file(path, view)) for view in views]


def of(records, name="1"):
    return [record for record in records if record["name"] == name]


def test_every_view_has_columns_and_a_function():
    assert set(VIEWS) == set(VIEW_COLUMNS)


def test_a_record_says_what_it_is_about(tmp_path):
    found = measured(tmp_path, *VIEWS)
    for view, records in zip(VIEW_COLUMNS, found, strict=True):
        assert {record["name"] for record in records} == {"all", "1"}
        for record in of(records):
            words = ("run", "method", "checkpoint", "epoch", "split", "criterion", "digest")
            assert tuple(record[word] for word in words) == (
                "small", "sgd", "last", 3, "train", "ce", "abc",
            )  # fmt: skip
            assert (record["kind"], record["n"], record["seed"]) == ("class", 10, 0)
            assert (record["dtype"], record["device"]) == ("float64", "cpu")
            assert record["operator"] == "hessian"
            assert record["settings"]
            assert record["gradient_cost"] > 0 or view == "eigenvectors"
            assert set(view_columns(view)) <= set(record)


def test_density_is_the_quadrature_of_the_dense_hessian(tmp_path):
    (records,) = measured(tmp_path, "density")
    (record,) = of(records)
    hessian = Dense(target(), CLASS).hessian
    nodes, weights = (np.array(record[key]) for key in ("nodes", "weights"))
    assert nodes.shape == weights.shape == (3, 6)
    for index in range(3):
        v = probe_start(43, derived_seed(0, "density", "class", "1"), index)
        moment = v
        for power in range(2 * 6):  # exact up to degree 2·steps − 1
            quadrature = float((weights[index] * nodes[index] ** power).sum())
            assert quadrature == pytest.approx(float(v @ moment), rel=1e-8)
            moment = hessian @ moment
    grid, density = np.array(record["grid"]), np.array(record["density"])
    # The mean of the density is tr(H)/n, up to the spread over three probes.
    mean = float(np.trapezoid(density * grid, grid))
    assert mean == pytest.approx(float((weights * nodes).sum() / 3), rel=1e-3)
    assert np.trapezoid(density, grid) == pytest.approx(1.0, rel=1e-3)
    assert record["gradient_cost"] == pytest.approx(2 * 18 + 1 / 3, abs=0.01)


def test_trace_holds_the_dense_trace(tmp_path):
    (records,) = measured(tmp_path, "trace", options=ViewSettings(probes=400))
    (record,) = of(records)
    wanted = float(Dense(target(), CLASS).hessian.trace())
    assert abs(record["trace"] - wanted) < 4 * record["trace_error"]
    assert record["trace_error"] < 0.1 * wanted


@pytest.mark.parametrize("operator", OPERATORS)
def test_eigenvalues_are_the_outermost_dense_ones(tmp_path, operator):
    settings = Settings(FINE, MatrixSpec(operator=operator))
    (records,) = measured(tmp_path, "eigenvalues", settings=settings)
    ends = {
        end: [r["eigenvalue"] for r in of(records) if r["end"] == end] for end in ("max", "min")
    }
    assert ends["max"] == sorted(ends["max"], reverse=True)
    assert ends["min"] == sorted(ends["min"])
    if operator == "hessian":
        wanted = np.linalg.eigvalsh(Dense(target(), CLASS).hessian.numpy())
        np.testing.assert_allclose(ends["max"], wanted[:-3:-1], rtol=1e-6)
        np.testing.assert_allclose(ends["min"], wanted[:2], rtol=1e-6)
    row = next(r for r in read_spectrum(tmp_path / "t.csv") if r["name"] == "1")
    assert ends["max"][0] == pytest.approx(row["lambda_max"], rel=1e-6, abs=1e-9)


def test_kato_temple_holds_the_dense_ends_sharper_than_the_row(tmp_path):
    (records,) = measured(tmp_path, "kato-temple", settings=Settings(StopRule(rtol=1e-2)))
    high, low = of(records)
    truth = np.linalg.eigvalsh(Dense(target(), CLASS).hessian.numpy())
    assert [high["end"], low["end"]] == ["max", "min"]
    assert low["temple_lower"] <= truth[0] <= low["temple_upper"]
    assert high["temple_lower"] <= truth[-1] <= high["temple_upper"]
    row = next(r for r in read_spectrum(tmp_path / "t.csv") if r["name"] == "1")
    width = row["lambda_max_upper"] - row["lambda_max_lower"]
    assert high["temple_upper"] - high["temple_lower"] < width
    assert high["gap"] > 0


def test_eigenvectors_are_those_of_the_row(tmp_path):
    (records,) = measured(tmp_path, "eigenvectors")
    (record,) = of(records)
    path = views_folder(tmp_path / "t.csv") / record["file"]
    tensors = load_file(path)
    hessian = Dense(target(), CLASS).hessian
    for vector, value in zip(tensors["vectors"], tensors["values"], strict=True):
        # A Ritz vector's residual is below 1e-8·|θ|, or 1e-9·‖T‖.
        assert float((hessian @ vector - value * vector).norm()) < 1e-7
    assert tensors["values"].tolist() == [record["lambda_max"], record["lambda_min"]]
    with safe_open(path, "pt") as opened:
        header = opened.metadata()
    assert (header["name"], header["digest"], header["rows"]) == ("1", "abc", "v_max v_min")


def test_slices_and_plane_are_the_loss_itself(tmp_path):
    slices, plane = measured(tmp_path, "slices", "plane", "eigenvectors")[:2]
    dense = Dense(target(), CLASS)
    vectors = np.linalg.eigh(dense.hessian.numpy())[1]
    for record, column in zip(of(slices), (-1, 0), strict=True):
        v = torch.tensor(vectors[:, column])
        straight, mirrored = (
            [float(dense.loss(dense.w + sign * a * v)) for a in record["radii"]] for sign in (1, -1)
        )
        # An eigenvector's sign is arbitrary.
        nearer = min(straight, mirrored, key=lambda side: abs(side[0] - record["losses"][0]))
        np.testing.assert_allclose(record["losses"], nearer, rtol=1e-6)
        assert record["radii"] == [-0.5, -0.25, 0.0, 0.25, 0.5]
        assert record["measured"] == pytest.approx(
            record["eigenvalue"], abs=record["measured_error"]
        )
        assert abs(record["measured"] - record["eigenvalue"]) < 1e-5
        assert record["agrees"] is True
    (record,) = of(plane)
    losses = np.array(record["losses"])
    by_direction = {r["direction"]: r["losses"] for r in of(slices)}
    # The plane's middle lines are the slices.
    np.testing.assert_allclose(losses[:, 1], np.array(by_direction["v_max"])[::2], rtol=1e-12)
    np.testing.assert_allclose(losses[1, :], np.array(by_direction["v_min"])[::2], rtol=1e-12)
    assert losses.shape == (3, 3)


def test_a_curvature_that_is_not_the_eigenvalue_is_told(tmp_path, monkeypatch):
    from saddlescope.measurement.views import slices

    real = slices.measured_curvature

    def along_the_other(objective, direction):
        return real(objective, torch.roll(direction, 1))

    monkeypatch.setattr(slices, "measured_curvature", along_the_other)
    (records,) = measured(tmp_path, "slices")
    assert not any(record["agrees"] for record in of(records))


def test_alignments_are_cosines_with_dense_eigenvectors(tmp_path):
    rule = UpdateRule(rho=0.3, rho_head=0.2, rho_tail=0.5)
    (records,) = measured(tmp_path, "alignments", on=target(rule=rule))
    dense = Dense(target(), CLASS)
    gradient, vectors = dense.gradient(), torch.linalg.eigh(dense.hessian)[1]
    v_max, v_min = (v if float(v @ gradient) > 0 else -v for v in (vectors[:, -1], vectors[:, 0]))
    on = target()
    names = tuple(name for name, _ in on.model.named_parameters())
    # Held to the rules written out in test_directions.
    updates = update_directions(on.model, on.criterion, on.samples, rule=rule)
    wanted = {("gradient", None): gradient} | {(d.method, d.stage): d.flat(names) for d in updates}
    found = {(r["vector"], r["stage"]): r for r in of(records)}
    assert list(found) == list(wanted)
    for key, vector in wanted.items():
        assert found[key]["norm"] == pytest.approx(float(vector.norm()), rel=1e-9)
        for column, v in (("cos_v_max", v_max), ("cos_v_min", v_min)):
            cosine = float(vector @ v / vector.norm())
            assert found[key][column] == pytest.approx(cosine, abs=1e-6)
    assert found["imbsam", 1]["rho"] == "head=0 tail=0.5"
    assert "rho_tail=0.5 group_reduction=batch batchnorm=eval" in found["sgd", 1]["settings"]


def test_alignments_of_some_parameters_take_their_part_of_the_update(tmp_path):
    settings = Settings(FINE, MatrixSpec(parameters=("2.*",)))
    (records,) = measured(tmp_path, "alignments", settings=settings)
    on = target()
    updates = update_directions(on.model, on.criterion, on.samples)
    sam = next(d for d in updates if d.method == "sam").flat(("2.weight", "2.bias"))
    record = next(r for r in of(records) if r["vector"] == "sam")
    assert record["norm"] == pytest.approx(float(sam.norm()), rel=1e-12)


def test_bootstrap_is_that_of_the_library_and_one_sample_is_skipped(tmp_path):
    (records,) = measured(tmp_path, "bootstrap", classes=(1, 2))
    (record,), (skipped,) = of(records), of(records, "2")
    on = target()
    subset = select_subsets(on.samples, classes=[1], groups=())[0]
    row = bootstrap_spectra(
        on.model, on.criterion, on.samples, subset, resamples=3, level=0.5, rtol=1e-8, atol=1e-9
    )
    wanted = {k: v for k, v in row.columns().items() if k in view_columns("bootstrap")}
    assert {key: record[key] for key in wanted} == wanted
    assert record["skipped"] == ""
    assert "class '2' has 1 sample" in skipped["skipped"]
    assert math.isnan(skipped["lambda_max_bootstrap_lower"])


def test_the_view_that_contributing_adds(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    (code,) = (block for block in text.split("```") if "VIEW_COLUMNS[" in block)
    monkeypatch.setitem(VIEW_COLUMNS, "width", ())  # put back when the test ends
    names = {"VIEW_COLUMNS": VIEW_COLUMNS, "columns": columns, "View": View}
    names |= {"RowWork": None, "Records": None}
    exec(textwrap.dedent(code.removeprefix("python")), names)
    monkeypatch.setitem(VIEWS, "width", names["VIEW"])
    (records,) = measured(tmp_path, "width")
    (record,) = of(records)
    eigenvalues = np.linalg.eigvalsh(Dense(target(), CLASS).hessian)
    assert record["width"] == pytest.approx(eigenvalues[-1] - eigenvalues[0], rel=1e-4)
    assert record["settings"].startswith("rtol=")
