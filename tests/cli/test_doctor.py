"""`saddlescope doctor` says what is there, and what is missing for what."""

import importlib.metadata
import json

import pytest
import torch
from typer.testing import CliRunner

from saddlescope.cli import doctor
from saddlescope.cli.main import app


@pytest.fixture
def run():
    return CliRunner().invoke(app, ["doctor"])


def test_versions_and_devices_are_those_of_this_process(run):
    assert run.exit_code == 0
    found = dict(line.split(None, 1) for line in run.stdout.splitlines())
    assert found["torch"].strip() == importlib.metadata.version("torch")
    assert found["threads"].startswith(f"{torch.get_num_threads()} of ")
    assert "device cpu" in run.stdout
    if not torch.cuda.is_available():
        assert "device cuda" in run.stdout
        assert "none:" in run.stdout


def test_as_json_it_says_the_same(run):
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    width = max(map(len, found))
    assert run.stdout.splitlines() == [f"{name:{width}}  {text}" for name, text in found.items()]


def test_what_is_missing_is_named_with_its_purpose(monkeypatch):
    real = importlib.metadata.version

    def without(package):
        if package == "tensorboard":
            raise importlib.metadata.PackageNotFoundError(package)
        return real(package)

    monkeypatch.setattr(doctor, "version", without)
    assert doctor.state("tensorboard") == (
        "without tensorboard, for `train --tensorboard`: pip install 'saddlescope[tensorboard]'"
    )
    answer = CliRunner().invoke(app, ["doctor"])
    assert answer.exit_code == 0
    assert "without tensorboard" in answer.stdout


def test_every_extra_has_a_purpose():
    assert set(doctor._extras()) <= set(doctor.PURPOSE)


def test_sources_that_were_never_installed_are_no_failure(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", nothing)
    answer = CliRunner().invoke(app, ["doctor"])
    assert answer.exit_code == 0
    assert "device cpu" in answer.stdout


@pytest.mark.parametrize("fast", [True, False])
def test_a_processor_without_bfloat16_is_said(monkeypatch, fast):
    monkeypatch.setattr("saddlescope.training.fast_bfloat16", lambda: fast)
    assert ("bf16" in dict(doctor.devices())["cpu"]) is not fast
