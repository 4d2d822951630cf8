"""Every example of docs/howto/own-loop.md runs, and ends with the weights of the plain loop.

They run in a process of their own: frameworks change warnings, logging and torch's global state.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "own-loop.md"
FIRST, *SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = {s.split("\n", 1)[0]: found[1] for s in SECTIONS if (found := CODE.search(s))}

LIKE_THE_PLAIN_LOOP = [
    name for name in EXAMPLES if name not in ("Schedulers and warm-up", "Clipping")
]

RUNNER = """
import functools, importlib.metadata, json, logging, sys, warnings
try:
    import torchvision
except Exception:  # a wheel for another torch: let nobody find it
    def hidden(function):
        def look(name, *rest):
            if name == "torchvision":
                raise importlib.metadata.PackageNotFoundError(name)
            return function(name, *rest)
        return look
    importlib.metadata.distribution = hidden(importlib.metadata.distribution)
    importlib.metadata.version = hidden(importlib.metadata.version)
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    sys.modules["torchvision"] = None
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
import torch
torch.compile = functools.partial(torch.compile, backend="aot_eager")  # no C++ compiler
first, examples = json.load(sys.stdin)
names, found, measured = {"__name__": "example"}, {}, {}
exec(first, names)
for title, code in examples.items():
    try:
        exec(compile(code, title, "exec"), names)
        whole = lambda p: p.full_tensor() if hasattr(p, "full_tensor") else p
        weights = [whole(p).detach() for p in names["model"].parameters()]
        found[title] = [w.double().flatten().tolist() for w in weights]
        if curves := names.pop("curves", None):
            measured[title] = curves.monitor.frame().to_json(orient="records")
    except ModuleNotFoundError as error:
        found[title] = f"skip: {error}"
    except Exception as error:
        found[title] = f"{type(error).__name__}: {error}"
print("FOUND" + json.dumps([found, measured]))
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], cwd=tmp_path_factory.mktemp("own-loop"), text=True,
        input=json.dumps([CODE.search(FIRST)[1], EXAMPLES]), capture_output=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert "FOUND" in done.stdout, done.stderr
    return json.loads(done.stdout.split("FOUND")[-1])


@pytest.fixture
def ends(ended):
    return ended[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "unit", "step"),
    [("Lightning, with curvature", "step", None),
     ("Hugging Face Trainer, with curvature", "epoch", 4)],
)  # fmt: skip
def test_the_frameworks_measure_what_the_plain_loop_does(ended, title, unit, step):
    if str(ended[0][title]).startswith("skip"):
        pytest.skip(ended[0][title])
    plain, there = (json.loads(ended[1][name]) for name in ("Curvature along the way", title))
    assert [row["step"] for row in plain] == [0, 2, 4]
    if step is None:
        assert [row[unit] for row in there] == [0, 2, 4]
    else:  # the only epoch ends after this step
        assert [row[unit] for row in there] == [0]
        plain = [row for row in plain if row["step"] == step]
    for one, two in zip(plain, there, strict=True):
        assert two["lambda_max"] == pytest.approx(one["lambda_max"], rel=1e-2)
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("title", list(EXAMPLES))
def test_it_runs(ends, title):
    if str(ends[title]).startswith("skip"):
        pytest.skip(ends[title])
    assert not isinstance(ends[title], str), ends[title]
    if title in LIKE_THE_PLAIN_LOOP:
        for found, expected in zip(ends[title], ends["Plain loop"], strict=True):
            assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("title", list(EXAMPLES))
def test_it_is_short(title):
    assert len(EXAMPLES[title].splitlines()) <= 25
