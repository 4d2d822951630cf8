"""Spectrum tables as restartable jobs, from run folders and from elsewhere."""

import sys
import time

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from saddlescope.curvature import StopRule, class_spectra
from saddlescope.errors import DataError, Interrupted, UsageError
from saddlescope.longtail import ImageSamples
from saddlescope.measurement import Settings, SpectrumJob, foreign_target, run_target
from saddlescope.runs import RunFolder, read_spectrum
from saddlescope.training import packaged_recipe, train
from saddlescope.training.restore import load_section
from tests import fresh


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = packaged_recipe(
        "digits-lt", overrides=["training.epochs=2", "loss.name=la", "method.name=sam"]
    )
    folder = RunFolder(tmp_path_factory.mktemp("run") / "small")
    return train(recipe, load_section(recipe.data), folder)


def job(run, path=None, **rest):
    options = {"classes": [0, 9], "groups": ("few", "tail"), "path": path} | rest
    return SpectrumJob.plan(run_target(run), settings=Settings(StopRule(rtol=0.05)), **options)


def comparable(rows):
    return [{key: str(value) for key, value in row.items()} for row in rows]


def test_rows_are_those_of_the_library(run, tmp_path):
    target = run_target(run)
    rows = job(run).run()
    frame = class_spectra(
        target.model, torch.nn.CrossEntropyLoss(), target.samples, classes=[0, 9],
        groups=("few", "tail"), rtol=0.05,
    )  # fmt: skip
    assert [row["lambda_min"] for row in rows] == frame["lambda_min"].tolist()
    assert [row["n"] for row in rows] == [27, 68, 130, 6]
    assert {(r["run"], r["method"], r["epoch"]) for r in rows} == {("small", "sam", 1)}


def test_interrupted_and_started_again_gives_the_same_table(run, tmp_path):
    whole = job(run, tmp_path / "whole.csv").run()
    path, calls = tmp_path / "cut.csv", 0

    def stop():
        nonlocal calls
        calls += 1
        return calls == whole[0]["matvecs"] + whole[1]["matvecs"] + 2

    with pytest.raises(Interrupted, match=r"class 0; finished rows are in .*cut\.csv"):
        job(run, path).run(should_stop=stop)
    assert [row["name"] for row in read_spectrum(path)] == ["few", "tail"]
    reused = []
    job(run, path).run(on_row=lambda row, old: reused.append(old))
    assert reused == [True, True, False, False]
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_kill_nine_and_started_again_gives_the_same_table(run, tmp_path):
    job(run, tmp_path / "whole.csv", classes=[6, 7, 8, 9]).run()
    path = tmp_path / "cut.csv"
    words = ("saddlescope", "spectrum", run.path, "--rtol", "0.05", "--groups", "few,tail",
             "--classes", "6-9", "-o", path, "--device", "cpu")  # fmt: skip
    process = fresh.start(*words)
    while process.poll() is None and not path.exists():
        time.sleep(0.005)
    time.sleep(0.2)
    process.kill()
    process.wait()
    assert len(read_spectrum(path)) >= 1
    assert fresh.run(*words).returncode == 0
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_rows_of_other_settings_are_kept_and_of_other_weights_dropped(run, tmp_path):
    path = tmp_path / "t.csv"
    job(run, path, seed=1, classes=[9], groups=()).run()
    job(run, path, classes=[9], groups=()).run()
    rows = read_spectrum(path)
    assert [row["seed"] for row in rows] == [1, 0]
    stale = job(run, path, classes=[9], groups=())
    stale.target.identity["digest"] = "other weights"
    stale.run()
    assert [row["digest"] for row in read_spectrum(path)] == ["other weights"]


def test_training_criterion_is_the_loss_of_the_recipe(run):
    plain, trained = run_target(run), run_target(run, criterion="training")
    assert (plain.identity["criterion"], trained.identity["criterion"]) == ("ce", "la")
    logits, labels = torch.zeros(1, 10), torch.tensor([9])
    assert trained.criterion(logits, labels) != plain.criterion(logits, labels)


def test_splits(run):
    assert len(run_target(run).samples.targets) == 438
    assert len(run_target(run, split="test").samples.targets) == 440
    assert isinstance(run_target(run).samples, ImageSamples)


FOREIGN = """
import torch
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
def dataset():
    torch.manual_seed(1)
    return torch.randn(30, 4), torch.arange(30) % 3
values = dataset()
number = 3
def not_a_network(): return 3
def empty(): return torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    (tmp_path / "mynet.py").write_text(FOREIGN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("mynet", None)
    import mynet

    return mynet


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("data", ["mynet:dataset", "mynet:values"])
def test_network_from_elsewhere(foreign, tmp_path, suffix, data):
    model = foreign.network()
    with torch.no_grad():
        model[0].weight.mul_(3)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": model.state_dict(), "step": 7}, path)
    else:
        save_file(model.state_dict(), path)
    rows = SpectrumJob.plan(
        foreign_target("mynet:network", data, checkpoint=path), settings=Settings()
    ).run()
    frame = class_spectra(model.eval(), torch.nn.CrossEntropyLoss(), foreign.values)
    assert [row["lambda_max"] for row in rows] == frame["lambda_max"].tolist()
    assert rows[0]["checkpoint"] == f"weights{suffix}"


def test_a_group_of_other_samples_is_measured_anew_and_its_views(foreign, tmp_path):
    def measured(positions):
        job = SpectrumJob.plan(
            foreign_target("mynet:network", "mynet:values"), settings=Settings(), classes="none",
            groups=["all", *({name: where} for name, where in positions.items())],
            path=tmp_path / "t.csv", views=["eigenvectors"],
        )  # fmt: skip
        reused, rows = {}, {}
        for row in job.run(on_row=lambda row, old: reused.update({row["name"]: old})):
            rows[row["name"]] = (row["n"], row["lambda_max"])
        return rows, reused

    before, _ = measured({"a": [0, 1, 2], "b": [3, 4, 5]})
    after, reused = measured({"a": [0, 1, 3], "b": [3, 4, 5]})
    assert reused == {"all": True, "a": False, "b": True}
    assert after["b"] == before["b"]
    assert after["a"] != before["a"]
    stored = pd.read_csv(tmp_path / "t.csv", dtype={"name": str})
    assert dict(zip(stored["name"], stored["lambda_max"], strict=True)) == pytest.approx(
        {name: value for name, (_, value) in after.items()}
    )
    named = pd.read_csv(tmp_path / "t.views" / "eigenvectors.csv")["file"]
    files = {f"eigenvectors/{p.name}" for p in (tmp_path / "t.views/eigenvectors").iterdir()}
    assert set(named) == files
    _, reused = measured({"a": [0, 1, 3]})
    assert reused == {"all": True, "a": True}
    assert len(pd.read_csv(tmp_path / "t.csv")) == 3  # what was not asked for stays


@pytest.mark.parametrize(
    ("model", "data", "error", "message"),
    [
        ("mynet", "mynet:dataset", UsageError, "expected package.module:name"),
        ("nothing_here:x", "mynet:dataset", UsageError, "importing nothing_here failed"),
        ("mynet:absent", "mynet:dataset", UsageError, "mynet has no 'absent'"),
        ("mynet:not_a_network", "mynet:dataset", UsageError, "returned int, not a torch module"),
        ("mynet:network", "mynet:number", UsageError, "cannot read samples from int"),
        ("mynet:network", "mynet:empty", DataError, "data set is empty"),
    ],
)
def test_mistakes_about_a_network_from_elsewhere(foreign, model, data, error, message):
    with pytest.raises(error, match=message):
        foreign_target(model, data)


def test_checkpoint_of_another_model(foreign, tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(DataError, match=r"not a checkpoint of this Sequential: 4 missing"):
        foreign_target("mynet:network", "mynet:dataset", checkpoint=tmp_path / "other.pt")


def test_wrong_words(run):
    with pytest.raises(UsageError, match="split 'val'"):
        run_target(run, split="val")
    with pytest.raises(UsageError, match="criterion 'mse'"):
        run_target(run, criterion="mse")
    with pytest.raises(DataError, match="class 77 has no samples"):
        job(run, classes=[77])


def test_every_digit_of_a_setting_is_in_a_rows_key():
    settings = [
        Settings(StopRule(rtol=rtol, confidence=confidence)).column()
        for rtol in (0.01, 0.0100000001)
        for confidence in (0.999, 0.9999999, 1 - 1e-12)
    ]
    assert len(set(settings)) == 6
    assert settings[0] == "rtol=0.01 atol=1e-05 confidence=0.999 certify=0 max_matvecs=200"
