"""The report beside the paper's tables, and with what was kept of the landscape."""

import io

import pandas as pd
from typer.testing import CliRunner

from saddlescope.cli.main import app
from saddlescope.reporting import class_table, select_runs, write_report
from tests.reporting.conftest import write_run
from tests.reporting.test_more_figures import add_monitor, add_views
from tests.reporting.test_paper import make


def test_measured_cells_stand_beside_the_printed_ones(tmp_path):
    make(tmp_path / "runs" / "a", seed=0, acc=0.50)
    make(tmp_path / "runs" / "b", seed=1, acc=0.60)
    page = write_report([tmp_path / "runs"], tmp_path / "r.html").path.read_text()
    assert "Table 1: CIFAR-100-LT and CIFAR-10-LT, IF = 100" in page
    assert "55.0 ± 7.1 (12.9)" in page
    assert "resnet8, 2 epochs" in page
    assert 'download="table1.csv"' in page
    assert "Table 2" not in page
    assert "— (" not in page.split('id="paper-tables"')[1].split("</section>")[0]


def test_a_report_of_other_data_says_nothing_of_the_tables(study, tmp_path):
    page = write_report([study], tmp_path / "r.html").path.read_text()
    assert 'id="paper-tables"' not in page
    assert 'id="landscape"' not in page


def test_kept_views_and_the_course_are_drawn_and_numbered_in_order(tmp_path):
    path = write_run(tmp_path / "runs", "sgd")
    add_views(path)
    add_monitor(path)
    page = write_report([tmp_path / "runs"], tmp_path / "r.html").path.read_text()
    numbers = [int(part.split(".</b>")[0]) for part in page.split("<figcaption><b>Figure ")[1:]]
    assert numbers == list(range(1, 11))
    for name in ("epochs", "density", "slices", "plane"):
        assert f'id="figure-{name}"' in page


def test_plain_output_is_the_class_table(tmp_path):
    runs, target = tmp_path / "runs", str(tmp_path / "r.html")
    write_run(runs, "sgd")
    plain = CliRunner().invoke(app, ["report", str(runs), "-o", target, "--plain"])
    assert plain.exit_code == 0, plain.output
    table = pd.read_csv(io.StringIO(plain.stdout))
    assert list(table.columns) == list(class_table(select_runs([runs])).columns)
    assert len(table) == 13
    usual = CliRunner().invoke(app, ["report", str(runs), "-o", target])
    assert "Test accuracy (%)" in usual.stdout
