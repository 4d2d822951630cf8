"""Tables hold every bit in CSV and escape markup in Markdown and LaTeX."""

import csv
import io
import math

import pandas as pd
import pytest

from saddlescope.reporting import (
    accuracy_table,
    class_table,
    select,
    select_runs,
    spectrum_table,
    to_csv,
    to_latex,
    to_markdown,
)


def test_class_table_has_a_row_for_each_network_and_class(study):
    table = class_table(select_runs([study]))
    assert len(table) == 5 * 13
    sgd = table[table["method"] == "sgd"]
    assert sgd["name"].tolist()[:3] == ["all", "head", "tail"]
    assert sgd["name"].tolist()[3:] == [str(c) for c in range(10)]
    assert sgd["class_name"].tolist()[3] == "digit 0"
    assert set(table["verdict"]) == {"negative-curvature", "unresolved", "not-converged"}


def test_accuracy_table_puts_the_last_epoch_apart_from_the_best_on_test(make_run):
    path = make_run("sam")
    chosen = select_runs([path])
    row = accuracy_table(chosen).iloc[0]
    metrics = chosen.runs[0].metrics
    assert row["epoch"] == 19
    assert row["avg"] == pytest.approx(100 * metrics["acc_avg"].iloc[-1])
    assert row["best_avg"] == pytest.approx(100 * metrics["acc_avg"].max())
    assert row["best_epoch"] == metrics["acc_avg"].idxmax()
    assert row["flip_few"] == pytest.approx(100 * metrics["acc_few_flip"].iloc[-1])
    assert row["flip_few"] != row["few"]


def test_a_run_without_metrics_keeps_its_row(make_run):
    path = make_run("sam")
    (path / "metrics.jsonl").unlink()
    row = accuracy_table(select_runs([path])).iloc[0]
    assert row["label"] == "SAM"
    assert math.isnan(row["avg"])


def test_csv_gives_back_the_same_bits(study):
    chosen = select_runs([study])
    table = class_table(chosen)
    back = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [float(row["lambda_min"]) for row in back] == table["lambda_min"].tolist()
    assert len(spectrum_table(chosen)) == len(table)
    assert spectrum_table(select([])).empty
    assert class_table(select([])).empty


def test_markdown_and_latex_escape_what_they_show():
    frame = pd.DataFrame({"a_b": ["x|y <b>", "50% & $1\\{"], "value": [-1.2345, math.nan]})
    assert to_markdown(frame) == (
        "| a\\_b | value |\n| --- | ---: |\n"
        "| x\\|y &lt;b&gt; | −1.23 |\n| 50% &amp; \\$1\\\\{ | — |\n"
    )
    latex = to_latex(frame)
    assert r"a\_b & value \\" in latex
    assert r"x\textbar{}y \textless{}b\textgreater{} & $-$1.23 \\" in latex
    assert r"50\% \& \$1\textbackslash{}\{ & --- \\" in latex
    assert latex.startswith(r"\begin{tabular}{lr}")
