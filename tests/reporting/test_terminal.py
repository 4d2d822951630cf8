"""The terminal summary: within 100 columns, with bounds, gradient norms and verdicts."""

import math

from saddlescope.reporting import select, select_runs, spectrum_text, summary_text
from tests.reporting.conftest import spectrum_row


def test_the_summary_says_what_was_measured(study):
    text = summary_text(select_runs([study]))
    assert max(map(len, text.splitlines())) <= 100
    for part in (
        "All samples (n = 409)",
        "Class 9, rarest (n = 6)",
        "27.0 [26.2, 27.8]",
        "‖∇L‖ 0.027",
        "[40.0, ∞]",
        "unresolved",
        "8 negative-curvature, 1 not-converged, 1 unresolved",
        "supports no claim between methods",
    ):
        assert part in text
    top = next(line for line in text.splitlines() if "27.0 [" in line)
    assert "█" * 16 in top


def test_hostile_and_long_labels_stay_inside_the_columns(make_run):
    method = "\x1b[31m" + "very long method name " * 9
    rows = [spectrum_row("x", "group", "all", 9, math.nan, lambda_ratio_upper=math.inf)]
    path = make_run("sam", rows=rows, info={"method": method})
    text = summary_text(select_runs([path]))
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_rows_of_several_sizes_name_both_ends(make_run):
    for method, n in (("sam", 80), ("sgd", 438)):
        path = make_run(method, rows=[spectrum_row(method, "group", "all", n, -1.0)])
    text = summary_text(select_runs([path.parent]))
    assert "All samples (n = 80–438)" in text


def test_without_spectrum_or_runs(make_run):
    assert summary_text(select([])) == "No runs.\n"
    text = summary_text(select_runs([make_run("sam", spectrum=False)]))
    assert "Test accuracy" in text
    assert "λ_ratio" not in text


def test_spectrum_text_is_aligned_and_shows_what_is_unresolved():
    row = {
        "name": "9", "kind": "class", "n": 6, "lambda_max": 5.0, "lambda_min": -0.25,
        "lambda_ratio": 20.0, "lambda_ratio_lower": 19.0, "lambda_ratio_upper": 20.5,
        "confidence": 0.999, "gradient_norm": 0.18, "verdict": "negative-curvature",
        "seed": 0, "operator": "hessian", "parameters": "*", "weight_decay": 0.0,
    }  # fmt: skip
    unresolved = row | {
        "name": "all", "kind": "group", "lambda_ratio": math.nan, "lambda_ratio_upper": math.inf,
        "verdict": "unresolved",
    }  # fmt: skip
    header, first, second, note = spectrum_text([row, unresolved]).splitlines()
    assert first.startswith("class 9 ")
    assert "[19.0, 20.5]" in first
    assert "████████" in first
    assert "∞" in second
    assert "█" not in second
    assert (
        first.index("negative-curvature") == second.index("unresolved") == header.index("verdict")
    )
    assert "99.9 %" in note


def test_of_several_start_vectors_the_lowest_is_shown_and_the_spread_said():
    def row(seed, lambda_max, lambda_min):
        return spectrum_row(
            "x", "class", "9", 6, 20.0, seed=seed, lambda_max=lambda_max, lambda_min=lambda_min
        )

    text = spectrum_text([row(2, 5.0, -0.26), row(1, 5.05, -0.25)])
    assert sum(line.startswith("class 9") for line in text.splitlines()) == 1
    assert " 5.05 " in text
    folded = " ".join(text.split())
    assert "Start vectors 1, 2 were measured; 1 is shown." in folded
    # 0.05/5.05 and 0.01/0.26
    assert "λ_max by 0.99 % and in λ_min by 3.8 % at most" in folded
    assert max(map(len, text.splitlines())) <= 100
    assert "Start vectors" not in spectrum_text([row(0, 5.0, -0.2)])


def test_another_matrix_than_the_hessian_is_named():
    row = spectrum_row("x", "group", "all", 6, 20.0, operator="gauss-newton", parameters="fc.*")
    assert "The matrix is gauss-newton of fc.*." in spectrum_text([row | {"weight_decay": 0.0}])
    assert "matrix" not in spectrum_text([spectrum_row("x", "group", "all", 6, 20.0)])
