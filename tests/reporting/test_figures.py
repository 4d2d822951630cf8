"""Figures: the right marks, reproducible files, nothing that a hostile label can break."""

import math
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from saddlescope.errors import UsageError
from saddlescope.reporting import (
    PICTURES,
    Drawing,
    Picture,
    extremes_by_class,
    fig4,
    load_runs,
    ratio_by_class,
    save_figure,
    select,
    select_runs,
    shot_accuracy,
    training_curves,
    write_report,
)
from saddlescope.reporting.figures.canvas import (
    WIDTH,
    figure_bytes,
    inline_svg,
    new_figure,
    value_scale,
)
from saddlescope.runs import read_spectrum, write_spectrum
from tests.reporting.conftest import spectrum_row

ALL = list(PICTURES.values())
FROM_RUNS = [picture for picture in ALL if not picture.without_runs]


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def test_fig4_has_three_panels_with_n_and_every_method(study):
    figure = fig4(select_runs([study]))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "All samples (n = 409)",
        "Class 0, most frequent (n = 120)",
        "Class 9, rarest (n = 6)",
    ]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["SGD", "SAM", "ImbSAM", "SAM (ext.)", "SSE-SAM"]
    note = figure.get_supxlabel()
    for part in ("train split", "n = 409", "99.9 %", "training seed 0"):
        assert part in note
    assert "unresolved, ≥ 40.0" in texts(figure)
    assert "arrow: unresolved, a lower bound only" in texts(figure)


def test_fig4_draws_each_network_as_a_point_and_stacks(seeds_study):
    figure = fig4(select_runs([seeds_study]), narrow=True, note=False)
    assert len({axes.get_position().x0 for axes in figure.axes}) == 1
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in marks] == [3]
    assert figure.get_supxlabel() == ""


def test_training_curves_mark_the_switch_only(study):
    figure = training_curves(select_runs([study]))
    assert len(figure.axes) == 6
    assert texts(figure).count("stage 2") == 1


def test_ratio_by_class_joins_no_line_through_what_is_open(study):
    runs = [run for run in load_runs([study])[0] if run.method == "sam"]
    axes = ratio_by_class(select(runs)).axes[0]
    joined = [line.get_ydata() for line in axes.lines if line.get_alpha() == 0.45]
    assert [math.isnan(y) for y in joined[0]] == [c in (3, 9) for c in range(10)]


@pytest.mark.parametrize("draw", FROM_RUNS, ids=lambda picture: picture.name)
def test_nothing_to_draw_is_a_figure_that_says_so(draw):
    figure = draw(select([]))
    assert isinstance(figure, Figure)
    assert any(text.startswith(("No ", "Nothing ")) for text in texts(figure))


@pytest.mark.parametrize("draw", ALL, ids=lambda picture: picture.name)
def test_hostile_labels_are_text(make_run, draw):
    method = "$\\frac{ </text><script>alert(1)</script> 猫 \x00"
    nan = {"lambda_ratio": math.nan, "lambda_ratio_lower": math.nan}
    rows = [
        spectrum_row("x", "group", "all", 9, 10.0),
        spectrum_row("x", "class", "0", 9, 1.0, lambda_ratio_upper=math.inf, **nan),
        spectrum_row("x", "class", "</b>", 9, 10.0, verdict="$odd$"),
    ]
    path = make_run("sam", rows=rows, info={"method": method, "class_names": ["<b>"] * 10})
    svg = figure_bytes(draw(select_runs([path])), "svg")
    ET.fromstring(svg)
    assert b"<script" not in svg
    assert b"<script" not in inline_svg(svg, "p", method).encode()


def test_saved_files_repeat_byte_for_byte(study, tmp_path):
    chosen = select_runs([study])
    first = save_figure(shot_accuracy(chosen), tmp_path / "a", "shots")
    second = save_figure(shot_accuracy(chosen), tmp_path / "b", "shots")
    assert [path.name for path in first] == ["shots.svg", "shots.pdf", "shots.png"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    with pytest.raises(UsageError, match="gif"):
        save_figure(fig4(select([])), tmp_path, "fig4", formats=("gif",))


def test_inlined_figures_do_not_share_ids(study):
    svg = figure_bytes(shot_accuracy(select_runs([study])), "svg")
    first, second = inline_svg(svg, "one", 'A "title" <b>'), inline_svg(svg, "two", "title")
    roots = [ET.fromstring(text) for text in (first, second)]
    ids = [{element.get("id") for element in root.iter()} - {None} for root in roots]
    assert ids[0]
    assert not ids[0] & ids[1]
    for text, known in zip((first, second), ids, strict=True):
        used = {part.split('"')[0] for part in text.split('href="#')[1:]}
        used |= {part.split(")")[0] for part in text.split("url(#")[1:]}
        assert used <= known
    assert roots[0].get("aria-label") == 'A "title" <b>'
    assert "<style" not in first
    assert "var(--m-sam, #0072b2)" in first


def test_values_get_a_log_scale_only_where_they_span_much():
    for values, scale in (([10, 20], "linear"), ([1, 20], "log"), ([math.nan], "linear")):
        axes = Figure().subplots()
        value_scale(axes, values, axis="y")
        assert axes.get_yscale() == scale


def test_neither_pyplot_nor_torch_is_loaded():
    code = (
        "import sys, saddlescope.reporting; "
        "sys.exit(any(name in sys.modules for name in ('matplotlib.pyplot', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tick_labels_of_widely_spread_lambda_min_are_plain_numbers(study):
    """Text from files is never parsed, so a scale's own mathtext would be shown raw."""
    (path,) = next(study.iterdir()).glob("spectrum/*.csv")
    rows = read_spectrum(path)
    for position, row in enumerate(rows):
        row["lambda_min"] = row["lambda_min_upper"] = -(4.0**-position)
        row["lambda_min_lower"] = 1.1 * row["lambda_min"]
    write_spectrum(path, rows)
    figure = extremes_by_class(select_runs([study]))
    figure.draw_without_rendering()
    assert figure.axes[1].get_yscale() == "symlog"
    assert not [text for text in texts(figure) if "mathdefault" in text]


def test_very_many_networks_are_drawn_as_one_a_method(make_run):
    """Of eight networks and 200 classes: medians, and hulls of the bounds."""
    ratios = np.random.default_rng(0).uniform(5, 20, (8, 200))
    for seed, row in enumerate(ratios):
        rows = [spectrum_row("sgd", "class", str(c), 9, ratio) for c, ratio in enumerate(row)]
        if seed == 3:
            rows[7]["verdict"] = "not-converged"
        path = make_run("sgd", seed=seed, rows=rows, counts=[9] * 200)
    chosen = select_runs([path.parent])
    figure = ratio_by_class(chosen)
    assert "marks: median of a method's networks" in " ".join(" ".join(texts(figure)).split())
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 200]
    drawn = lines[-1].get_ydata()  # the faint line, broken where a network is open
    np.testing.assert_allclose(np.delete(drawn, 7), np.delete(np.median(ratios, 0), 7))
    assert np.isnan(drawn[7])
    bars = [path for part in figure.axes[0].collections for path in part.get_paths()]
    low = min(path.vertices[:, 1].min() for path in bars)
    assert low == pytest.approx(ratios.min() * (1 - 1.5 * 0.02), rel=1e-6)
    assert len(figure_bytes(figure, "svg")) < 300_000


def test_the_figure_that_contributing_adds(study, monkeypatch, tmp_path):
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    (code,) = (block for block in text.split("```") if "losses = Picture(" in block)
    names = {"Selection": None, "Drawing": Drawing, "Picture": Picture}
    names |= {"new_figure": new_figure, "WIDTH": WIDTH}
    exec(textwrap.dedent(code.removeprefix("python")), names)
    picture, chosen = names["losses"], select_runs([study])
    drawn = picture(chosen).axes[0].lines[0].get_ydata()
    assert list(drawn) == chosen.rows["loss"].tolist()
    monkeypatch.setattr("saddlescope.reporting.report.PICTURES", {"losses": picture})
    page = write_report(chosen, tmp_path / "report.html").path.read_text()
    assert 'id="figure-losses"' in page
    assert "The loss of each measured row. Train split" in page
    assert "No spectrum was measured." in texts(picture(select([])))
