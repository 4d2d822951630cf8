"""Figures 1 to 3 of the paper, the landscape, the course of the eigenvalues, the summary page."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from saddlescope.cli.main import app
from saddlescope.reporting import (
    PICTURES,
    TABLES,
    eigenvalues_by_epoch,
    fig1,
    fig2,
    fig3,
    load_runs,
    loss_planes,
    loss_slices,
    save_figure,
    save_table,
    select,
    select_runs,
    spectral_densities,
    summary,
)
from saddlescope.reporting.figures.epochs import eigenvalue_course
from saddlescope.runs import (
    RunFolder,
    append_row,
    read_spectrum,
    read_view,
    view_columns,
    view_file,
    write_spectrum,
    write_view,
)
from saddlescope.runs.schema import VIEW_IDENTITY
from saddlescope.theory import figure2, walk
from saddlescope.theory.surfaces import SurfaceShare, double_well
from tests.reporting.conftest import spectrum_row, write_run
from tests.reporting.test_figures import texts


def add_views(path, **changes):
    """A density, slices and a plane beside each row "all" and "tail" of a run's spectrum."""
    folder = RunFolder(path)
    table = folder.spectrum_file("last", "train")
    views = {"density": [], "slices": [], "plane": []}
    radii = np.linspace(-0.5, 0.5, 11)
    for row in read_spectrum(table):
        if row["name"] not in ("all", "tail"):
            continue
        identity = {key: row[key] for key in VIEW_IDENTITY if key in row}
        grid = np.linspace(-10, 90, 50)
        views["density"].append(
            identity
            | {"steps": 60, "probes": 8, "size": 1000, "matvecs": 480, "sigma": 0.1}
            | {"nodes": [[0.0]], "weights": [[1.0]], "grid": grid.tolist()}
            | {"density": np.exp(-(grid**2)).tolist(), "density_spread": [0.0] * 50}
        )
        for direction, eigenvalue in (("v_max", row["lambda_max"]), ("v_min", row["lambda_min"])):
            losses = 0.3 + 0.5 * eigenvalue * radii**2
            views["slices"].append(
                {**dict.fromkeys(view_columns("slices"), 0.1), **identity}
                | {"direction": direction, "eigenvalue": eigenvalue, "agrees": True}
                | {"converged": True, "radii": radii.tolist(), "losses": losses.tolist()}
            )
        narrow = radii[2:-2]  # another number of points: a plane on its side would not fit
        plane = 0.5 * (radii[:, None] ** 2 - 0.1 * narrow[None] ** 2)
        views["plane"].append(
            identity
            | {"lambda_max": 1.0, "lambda_min": -0.1, "converged": True}
            | {"v_max_radii": radii.tolist(), "v_min_radii": narrow.tolist()}
            | {"losses": plane.tolist()}
        )
    for view, records in views.items():
        write_view(view_file(table, view), [record | changes for record in records])


def add_monitor(path, epochs=(0, 5, 10)):
    for epoch in epochs:
        row = {"epoch": epoch, "kind": "group", "name": "all", "n": 409, "gradient_norm": 0.1}
        for key, value in (("lambda_max", 9.0), ("lambda_min", -1.0), ("lambda_ratio", 9.0)):
            value = value / (epoch + 1)
            row |= {key: value, f"{key}_lower": value - 0.1, f"{key}_upper": value + 0.1}
        append_row(RunFolder(path).monitor_file, row)


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """Three methods with everything that a figure is drawn from. Read only."""
    root = tmp_path_factory.mktemp("rich")
    for method in ("sgd", "sam", "sse-sam"):
        path = write_run(root, method)
        add_views(path)
        add_monitor(path)
    return root


@pytest.mark.parametrize(
    ("view", "changes"),
    [
        ("density", {"grid": [], "density": [], "density_spread": []}),
        ("slices", {"radii": [], "losses": []}),
        ("plane", {"v_max_radii": [0.0], "losses": [[1.0, 2.0]], "v_min_radii": [0.0, 1.0]}),
    ],
)
def test_a_view_without_extent_is_no_reason_to_fail(make_run, view, changes):
    path = make_run("sam")
    add_views(path)
    file = view_file(RunFolder(path).spectrum_file("last", "train"), view)
    write_view(file, [record | changes for record in read_view(file)])
    assert "was kept" in " ".join(texts(PICTURES[view](select_runs([path]))))


@pytest.mark.parametrize(("view", "column"), [("density", "grid"), ("plane", "v_min_radii")])
def test_a_view_whose_arrays_do_not_fit_is_a_problem(make_run, view, column):
    path = make_run("sam")
    add_views(path)
    file = view_file(RunFolder(path).spectrum_file("last", "train"), view)
    records = read_view(file)
    records[1][column] = records[1][column][:-1]
    write_view(file, records)
    chosen = select_runs([path])
    (problem,) = chosen.problems
    assert f"{view}.json:3" in problem.reason
    assert "was kept" in " ".join(texts(PICTURES[view](chosen)))


def test_fig1_reads_the_accuracies_at_the_switch_and_at_the_end(make_run):
    path = make_run("sse-sam")
    chosen = select_runs([path])
    metrics = chosen.runs[0].metrics
    written = texts(fig1(chosen))
    assert "stage 1: head and tail are perturbed" in written
    # every class has the average accuracy in this synthetic run
    for epoch in (13, 19):
        assert f"{100 * metrics['acc_avg'].iloc[epoch]:.1f}" in written
    assert "No SSE-SAM run has reached its second stage." in texts(
        fig1(select_runs([make_run("sam")]))
    )


def test_fig1_needs_accuracies_by_class(make_run):
    """A file that lists too few of them, or words, is no reason to fail."""
    path = make_run("sse-sam")
    file = RunFolder(path).metrics_file
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row, value in zip(rows, [[0.5], ["high"] * 10, None, 3] * 5, strict=True):
        row["acc_per_class"] = value
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "No accuracy by class was recorded." in texts(fig1(select_runs([path])))


def test_fig3_draws_three_methods_and_the_switch(seeds_study):
    figure = fig3(select_runs([seeds_study]))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Many", "Medium", "Few"]
    assert "stage 2" in texts(figure)
    assert {"SAM", "ImbSAM", "SSE-SAM"} <= set(texts(figure))
    assert "SGD" not in texts(figure)
    assert len(figure.axes[0].collections) == 3  # a band over seeds for each


def test_fig2_draws_the_walks_of_the_theory():
    left, right = figure2()
    assert (left.theorem1, right.theorem1) == (False, True)
    start = np.array([[1.1, 0.08]])
    share = SurfaceShare(double_well(), start, np.array([0.5]))
    walked = np.concatenate([start + u for u, _ in walk([share], np.array([0.1]), 80)])
    np.testing.assert_array_equal(left.paths["sam"], walked)
    # SGD ends in a well, SAM within ρ of the saddle.
    assert abs(left.paths["sgd"][-1, 1]) == pytest.approx(1.0, abs=0.05)
    assert np.linalg.norm(left.paths["sam"][-1]) < 0.5
    sam = right.paths["sam"][1:, 1]
    assert (np.sign(sam[1:]) == -np.sign(sam[:-1])).all()
    assert abs(sam[-1]) > abs(right.paths["sgd"][-1, 1])
    figure = fig2(select([]))
    drawn = [line.get_xydata() for line in figure.axes[0].lines[:2]]
    np.testing.assert_array_equal(drawn[1], left.paths["sam"])


def test_landscape_figures_name_what_they_show(rich):
    chosen = select_runs([rich])
    assert not chosen.problems
    figure = spectral_densities(chosen)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "All (n = 409)",
        "Tail (n = 65)",
    ]
    sgd = next(run for run in chosen.runs if run.method == "sgd")  # the paper's first
    row = next(r for r in sgd.spectra.to_dict("records") if r["name"] == "all")
    ends = figure.axes[0].lines[1].get_xdata()
    assert list(ends) == [row["lambda_min"], row["lambda_max"]]
    figure = loss_slices(chosen)
    assert len(figure.axes) == 4
    x, y = figure.axes[0].lines[0].get_data()
    np.testing.assert_allclose(y, 0.5 * row["lambda_max"] * np.asarray(x) ** 2, atol=1e-12)
    planes = loss_planes(chosen)
    assert len(planes.axes) == 6
    assert "All (n = 409)" in " ".join(texts(planes))


def test_a_landscape_of_another_split_or_checkpoint_is_left_out(make_run):
    path = make_run("sgd")
    add_views(path, split="test")
    assert "No loss slice was kept" in " ".join(texts(loss_slices(select_runs([path]))))


def test_the_course_joins_monitor_and_checkpoints(rich):
    chosen = select_runs([rich])
    course = eigenvalue_course(chosen.runs[0], "all")
    assert course["epoch"].tolist() == [0, 5, 10, 19]
    assert course["lambda_max"].iloc[1] == pytest.approx(9.0 / 6)
    figure = eigenvalues_by_epoch(chosen)
    assert len(figure.axes) == 3
    assert len(figure.axes[0].lines) == 3
    alone = select([replace(run, monitor=run.monitor.iloc[:0]) for run in chosen.runs])
    assert "measured at two epochs" in " ".join(texts(eigenvalues_by_epoch(alone)))


OTHERS = (
    {"operator": "gauss-newton"},
    {"parameters": "layer3.*"},
    {"weight_decay": 0.5},
    {"criterion": "ldam"},
)


@pytest.mark.parametrize("other", OTHERS)
def test_rows_and_views_of_another_matrix_are_not_drawn_as_the_hessians(make_run, other):
    path = make_run("sgd")
    add_views(path)
    table = RunFolder(path).spectrum_file("last", "train")
    rows = read_spectrum(table)
    density = read_view(view_file(table, "density"))
    wrong = {"lambda_max": 1e4, "lambda_min": -1e4} | other
    write_spectrum(table, [*rows, *(row | wrong for row in rows)])
    write_view(
        view_file(table, "density"),
        [*density, *(record | other | {"density": [0.0] * 50} for record in density)],
    )
    chosen = select_runs([path])
    assert (chosen.runs[0].spectra["lambda_max"] == 1e4).any()
    figure = spectral_densities(chosen)
    curves = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 50]
    (curve,) = curves
    assert curve.get_ydata().max() > 0.9
    ends = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    all_of = next(row for row in rows if row["name"] == "all")
    assert [list(one) for one in ends] == [[all_of["lambda_min"], all_of["lambda_max"]]]
    assert eigenvalue_course(chosen.runs[0], "all")["lambda_max"].max() < 1e4


def test_the_density_of_a_matrix_that_alone_was_measured_says_which(make_run):
    path = make_run("sgd", rows=[])
    table = RunFolder(path).spectrum_file("last", "train")
    row = spectrum_row("sgd", "group", "all", 400, 12.0, operator="gauss-newton")
    write_spectrum(table, [row])
    add_views(path)
    assert "gauss-newton" in " ".join(texts(spectral_densities(select_runs([path]))))


def test_a_broken_view_or_monitor_is_a_problem_and_no_more(make_run):
    path = make_run("sgd")
    add_views(path)
    table = RunFolder(path).spectrum_file("last", "train")
    view_file(table, "density").write_text("[{]")
    RunFolder(path).monitor_file.write_text('{"epoch": 1}\nnonsense\n{"epoch": "<b>"}\n')
    runs, problems = load_runs([path])
    assert len(runs) == 1
    assert len(problems) == 2
    assert "slices" in runs[0].views
    assert "density" not in runs[0].views


def test_the_summary_says_the_answer(rich):
    chosen = select_runs([rich])
    figure = summary(chosen)
    written = " ".join(texts(figure))
    assert "Is this network at a saddle?" in written
    assert "3 checkpoints (SGD, SAM and SSE-SAM)" in " ".join(written.split())
    assert len(figure.get_axes()) == 5
    assert "Nothing was measured." in texts(summary(select([])))


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_every_picture_repeats_byte_for_byte(name, rich, tmp_path):
    # The other formats take as long again for each picture; what they add is told by one.
    formats = ("svg", "pdf", "png") if name == "fig4" else ("svg",)
    first, second = (
        save_figure(
            PICTURES[name](select_runs([rich])), tmp_path / str(turn), name, formats=formats
        )
        for turn in range(2)
    )
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_table_repeats_byte_for_byte(name, rich, tmp_path):
    chosen = select_runs([rich])
    first, second = (save_table(chosen, name, tmp_path / str(turn)) for turn in range(2))
    assert [path.suffix for path in first] == [".csv", ".md", ".tex"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_draws_one_or_all(rich, tmp_path):
    done = command("figure", "fig4", rich, "-o", tmp_path / "one", "--formats", "svg")
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [str(tmp_path / "one" / "fig4.svg")]
    done = command("figure", "fig2", "-o", tmp_path / "two", "--formats", "png")
    assert done.exit_code == 0, done.output
    done = command("figure", "table2", "-o", tmp_path / "two")
    assert done.exit_code == 0, done.output
    assert "to fill" in (tmp_path / "two" / "table2.md").read_text()
    done = command("figure", "all", rich, "-o", tmp_path / "all", "--formats", "png")
    assert done.exit_code == 0, done.output
    names = {path.stem for path in (tmp_path / "all").iterdir()}
    assert names == {*PICTURES, *TABLES}


def test_the_command_refuses(rich, tmp_path):
    for arguments, code, message in (
        (("fig9", rich), 2, "no figure 'fig9'"),
        (("fig4",), 2, "give run folders"),
        (("fig4", tmp_path), 4, "no readable run"),
        (("fig4", rich, "--formats", "gif"), 2, "gif"),
    ):
        done = command("figure", *arguments, "-o", tmp_path / "out")
        assert done.exit_code == code, done.output
        assert message in done.stderr
        assert not (tmp_path / "out").exists()
