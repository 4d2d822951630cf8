"""Every key of a recipe and every option of a command, once, in a process that is fresh.

What a test has imported before, a user has not: `training.compile` ended with an AttributeError
from the shell and passed every test. The keys and the options are listed from the schema and from
the commands, so that a new one fails here until it is tried.
"""

import subprocess
import sys

import pytest
import typer.main
from pydantic import BaseModel

from benchmarks.command import app as benchmarks
from saddlescope.cli.main import app
from saddlescope.cli.theory import _STATEMENTS
from saddlescope.training import Recipe
from tests import fresh
from tests.longtail.pictures import write_lists

ONE = ("training.epochs=1",)
ALL_KEYS = (
    "name=every", "data.name=digits", "data.imbalance_factor=10", "data.profile=step",
    "data.subset=first", "data.subset_seed=1", "data.tail_threshold=40", "data.many_above=60",
    "data.few_below=20", "data.augment=false", "model.name=resnet8", "model.classifier=linear",
    "model.norm=group", "loss.name=ce", "loss.reweight_from=0.5", "loss.reweight_beta=0.99",
    "method.name=imbsam", "method.first_stage=sam", "method.rho=0.04", "method.rho_head=0.04",
    "method.rho_tail=0.08", "method.gamma=0.5", "method.group_reduction=group",
    "method.bn_statistics=clean", "optimizer.eta=0.02", "optimizer.momentum=0.8",
    "optimizer.nesterov=true", "optimizer.weight_decay=1e-4", "optimizer.batch_size=128",
    "optimizer.schedule=constant", "optimizer.clip=1.0", "training.epochs=2", "training.seed=3",
    "training.evaluate_every=2", "training.checkpoint_every=1", "training.norms_every=2",
    "training.losses_every=1", "training.channels_last=true", "training.sync_bn=false",
    "training.accumulate=2", "training.deterministic=true",
)  # fmt: skip
"""Those that go together; the others have a run of their own below."""

FILE_KEYS = (
    "data.name=list", "data.train_list=train.txt", "data.test_list=test.txt", "data.image_size=16",
    "data.shrink_to=16", "data.tail_threshold=3", *ONE,
)  # fmt: skip
RECIPE = '[data]\nname = "list"\n[model]\nname = "resnet8"\n[training]\nepochs = 1\n'


def settings(keys):
    return [word for key in keys for word in ("--set", key)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    write_lists(folder / "images", [5, 3, 2])
    (folder / "files.toml").write_text(f'name = "files"\n{RECIPE}')
    (folder / "sweep.toml").write_text(
        'extends = "package:digits-lt"\nname = "s"\n[training]\nepochs = 1\n'
        '[[sweep]]\n"training.seed" = [0, 1]\n'
    )
    (folder / "mine.py").write_text(
        "import torch\n"
        "def net():\n    torch.manual_seed(0); return torch.nn.Linear(3, 2)\n"
        "data = (torch.arange(12.).reshape(4, 3), torch.tensor([0, 1, 0, 1]))\n"
        "values = (data[0], data[0][:, :2])\n"
        "def half(sample): return 'low' if sample[0].sum() < 20 else 'high'\n"
        "torch.save({'state_dict': net().state_dict(), 'ema': net().state_dict()}, 'w.pt')\n"
    )
    return folder


SCRIPT = """
train package:digits-lt -o run --monitor all --monitor-every 2 --tensorboard KEYS CPU
train package:digits-lt -o compiled --force COMPILED CPU
train package:digits-lt -o captured --set training.captured=true --set training.epochs=1 CPU
train files.toml -o files --data-root images --workers 1 --cache cache --resume FILES CPU
train --from run --classifier tau-norm --tau 0.5 -o tau CPU
train sweep.toml -o sweep --only s-sgd-seed0 --dry-run CPU
train sweep.toml -o sweep --dry-run --json CPU
train package:digits-lt -o branched --branch run --dry-run KEYS --set method.gamma=1.0 CPU
train sweep.toml -o sweep --jobs 2 --shard 1/2 CPU
spectrum run --checkpoint 1 --classes 9 --groups none --split train --criterion ce --rtol 0.5 \
    --certify --atol 1e-4 --confidence 0.9 --max-matvecs 40 --seed 1 --operator hessian \
    --parameters fc.* --weight-decay 0.1 --with trace --steps 3 --probes 2 --k 2 --radius 0.1 \
    --resamples 20 --strategy double-backward -o t.csv --json --plain --shard classes \
    --data-root images CPU
spectrum --model mine:net --data mine:data --dry-run CPU
spectrum --model mine:net --data mine:values --checkpoint w.pt --entry ema --classes none \
    --criterion torch.nn:MSELoss --groups all,mine:half --randomness refuse --json CPU
check run --checkpoint last --classes 9 --groups none --samples 2 --split train --criterion ce \
    --rtol 0.5 --confidence 0.9 --max-matvecs 20 --seed 1 -o c.csv --force --json \
    --data-root images CPU
check --model mine:net --checkpoint w.pt --entry ema --data mine:data CPU
bench ends --cases mlp --tools saddlescope --run run --seeds 1 --repeats 1 --no-every \
    --time-limit 0 -o b.json --json --data-root images CPU
report run -o r.html --plain --open --force
figure fig2 run -o out --formats svg --force
demo -o demo --jobs 2 --device cpu --set training.epochs=0
doctor --json
data inspect list --imbalance-factor 1.5 --profile exp --subset first --tail-threshold 2 \
    --train-list train.txt --test-list test.txt --sheet s.png --force --json --data-root images
theory theorem1 --trials 20 --seed 1 --search --json
theory proposition3 --trials 20 --seed 1 --json
theory proposition4 --trials 20 --seed 1 --json
theory proposition5-1 --trials 20 --seed 1 --json
theory proposition5-2 --trials 20 --seed 1 --json
theory weingarten --trials 20 --seed 1 --json
theory phase run --mu 2 -o p.svg --force --json
theory horizons --dimensions 1 --alignments 0.5 --a 0.1 --mu 2 --json
theory escape run --checkpoint last --start checkpoint --offset 0.1 --steps 1 --eta 0.01 \
    --samples 20 --methods sgd --seed 1 -o e.csv --force --json --data-root images CPU
theory gradients run --checkpoints last --samples 2 --seed 1 --criterion ce --json \
    --data-root images CPU
theory gradients run --logged
theory remark2 run --checkpoint last --batches 2 --batch-size 4 --seed 1 --json \
    --data-root images CPU
theory eq2 run --checkpoint last --rho 0.1 --steps 1 --starts 0 --seed 1 --json \
    --data-root images CPU
theory theorem6 run --most 5 --delta 0.1 --rho 0.1 --ball --seed 1 --json --data-root images CPU
"""
COMPILED = (*ONE, "training.compile=true", "training.precision=bf16", "model.name=two-layer-linear")
STANDS_FOR = {
    "KEYS": settings(ALL_KEYS), "FILES": settings(FILE_KEYS), "COMPILED": settings(COMPILED),
    "CPU": ["--device", "cpu", "--threads", "1"],
}  # fmt: skip
LINES = [
    [word for part in line.split() for word in STANDS_FOR.get(part, [part])]
    for line in SCRIPT.replace("\\\n", " ").strip().splitlines()
]
MAY_FAIL = {
    "training.epochs=0": 2,  # a demo that is refused, as training it takes minutes
    "bench ends": 2,  # of a run of another network
    "theory theorem6": None,  # a bound of a run that has no spectrum of its own
    "theory phase": None,
}
"""Where an exit code other than 0 and 3 is the right one."""

ONLY_HELP = {"--help", "--install-completion", "--show-completion", "--version"}


@pytest.mark.slow
def test_every_line_ends_as_it_should_in_a_fresh_process(place):
    wrong = []
    for line in LINES:
        if "compiled" in line:  # torch's compiler starts processes of its own: as from a shell
            done = subprocess.run(
                [sys.executable, "-m", "saddlescope", *line],
                capture_output=True, text=True, cwd=place, check=False,
            )  # fmt: skip
        else:
            done = fresh.run("saddlescope", *line, cwd=place, BROWSER="true")  # opens nothing
        expected = {0, 3}
        for mark, code in MAY_FAIL.items():
            if mark in " ".join(line):
                expected = {0, 2, 3, 4} if code is None else {code}
        if "Traceback" in done.stderr or done.returncode not in expected:
            wrong.append(f"{' '.join(line)}\n{done.returncode}: {done.stderr[-600:]}")
    assert not wrong, "\n\n".join(wrong)


def recipe_keys():
    for name, field in Recipe.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if section is None:
            yield name
        else:
            yield from (f"{name}.{key}" for key in section.model_fields)


def test_every_key_of_a_recipe_is_tried():
    tried = {word.partition("=")[0] for line in LINES for word in line if "=" in word}
    written_by_from = {key for key in recipe_keys() if key.startswith("decoupling.")}
    assert set(recipe_keys()) - tried - written_by_from == set()


def commands(command, name=()):
    children = getattr(command, "commands", {})
    if not children:
        # The door hands all its words to the clone's command.
        yield name, typer.main.get_command(benchmarks) if name == ("bench",) else command
    for key, child in children.items():
        yield from commands(child, (*name, key))


@pytest.mark.parametrize(("name", "command"), list(commands(typer.main.get_command(app))))
def test_every_option_of_a_command_is_tried(name, command):
    mine = [line for line in LINES if tuple(line[: len(name)]) == name]
    assert mine, f"tests/cli/test_fresh_process.py: try {' '.join(name)}"
    if name[-1] in _STATEMENTS:  # made by one function, and a search takes long
        mine = [line for line in LINES if line[0] == name[0] and line[1] in _STATEMENTS]
    tried = {word for line in mine for word in line}
    missing = [
        parameter.opts[0]
        for parameter in command.params
        if parameter.param_type_name == "option"
        and not tried.intersection((*parameter.opts, *parameter.secondary_opts))
        and parameter.opts[0] not in ONLY_HELP
    ]
    assert not missing, f"tests/cli/test_fresh_process.py: try {', '.join(missing)}"
