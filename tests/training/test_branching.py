"""A run that goes on from another's checkpoint is the run in one piece, to the bit."""

import pytest
import torch

from saddlescope.curvature import CurvatureMonitor
from saddlescope.errors import DataError, UsageError
from saddlescope.longtail import ImageSamples
from saddlescope.runs import RunFolder, read_rows, write_json
from saddlescope.training import RunOptions, load_checkpoint, packaged_recipe, train
from saddlescope.training.branching import (
    Branching,
    branch_epochs,
    in_a_sweep,
    require_trunk,
    shared_epochs,
    trunk_of,
)
from saddlescope.training.restore import load_section

SHORT = (
    "training.epochs=4",
    "method.gamma=0.5",
    "data.augment=true",
    "method.bn_statistics=clean",
    "training.norms_every=5",
    "training.losses_every=1",
)


def recipe(method, *overrides):
    return packaged_recipe("digits-lt", overrides=[*SHORT, f"method.name={method}", *overrides])


@pytest.fixture(scope="module")
def data():
    return load_section(recipe("sgd").data)


def rows(path):
    if not path.is_file():
        return None
    timed = ("seconds", "images_per_s")
    return [{k: v for k, v in row.items() if k not in timed} for row in read_rows(path)]


def assert_same_run(one, two):
    for which in ("last", "best"):
        left, right = (load_checkpoint(f.checkpoint(which)) for f in (one, two))
        assert left["epoch"] == right["epoch"]
        for part in ("model", "optimizer", "rng", "steps"):
            torch.testing.assert_close(left[part], right[part], rtol=0, atol=0)
    for log in ("metrics_file", "norms_file", "losses_file", "monitor_file"):
        assert rows(getattr(one, log)) == rows(getattr(two, log))


@pytest.mark.parametrize(
    ("trunk", "branch", "overrides"),
    [
        ("sam-ext", "sse-sam", ()),
        ("sgd", "imbsam", ("method.first_stage=sgd",)),
        ("sam-ext", "sgd", ("method.first_stage=sam-ext",)),
    ],
)
def test_a_branch_is_the_run_in_one_piece(tmp_path, data, trunk, branch, overrides):
    of_trunk, wanted = recipe(trunk), recipe(branch, *overrides)
    assert shared_epochs(of_trunk, wanted) == 2
    kept = branch_epochs(0, (of_trunk, wanted))
    assert kept == {1}
    first = train(
        of_trunk, data, RunFolder(tmp_path / "trunk"), RunOptions(branching=Branching(keep=kept))
    )
    whole = train(wanted, data, RunFolder(tmp_path / "whole"))
    found = require_trunk(wanted, first)
    assert found.epochs == 2
    branched = train(
        wanted, data, RunFolder(tmp_path / "branch"), RunOptions(branching=Branching(found))
    )
    assert_same_run(branched, whole)
    assert branched.run()["branch"] == {"run": "trunk", "epochs": 2}
    assert whole.run()["branch"] is None
    assert not torch.equal(  # and the branch is another network than its trunk
        *(load_checkpoint(f.checkpoint("last"))["model"]["fc.weight"] for f in (branched, first))
    )


def test_the_best_epoch_before_the_branch_is_kept_though_the_trunk_has_a_better_one(tmp_path, data):
    wanted = recipe("sse-sam", "method.gamma=0.75")
    trunk = recipe("sam-ext", "method.gamma=0.75")
    keep = Branching(keep=frozenset({2}))
    first = train(trunk, data, RunFolder(tmp_path / "trunk"), RunOptions(branching=keep))
    accuracies = [row["acc_avg"] for row in read_rows(first.metrics_file)][:3]
    found = require_trunk(wanted, first)
    assert found.best == first.checkpoint(str(accuracies.index(max(accuracies))))
    assert load_checkpoint(found.best)["best"] == max(accuracies)


def test_what_is_kept_of_the_trunk_is_there_in_the_branch(tmp_path, data):
    every = "training.checkpoint_every=1"
    first = train(recipe("sam-ext", every), data, RunFolder(tmp_path / "trunk"))
    wanted = recipe("sse-sam", every)
    found = require_trunk(wanted, first)
    branched = train(
        wanted, data, RunFolder(tmp_path / "branch"), RunOptions(branching=Branching(found))
    )
    assert sorted(p.name for p in branched.checkpoints.iterdir()) == [
        "best.pt", "epoch-000.pt", "epoch-001.pt", "epoch-002.pt", "epoch-003.pt", "last.pt",
    ]  # fmt: skip


def test_the_copies_are_the_branchs_own(tmp_path, data):
    """With γ = 0 all of SSE-SAM is its second stage, whose radii are those of ImbSAM."""
    options = "training.checkpoint_every=1", "method.gamma=0.0"
    first = train(recipe("imbsam", *options), data, RunFolder(tmp_path / "trunk"))
    wanted = recipe("sse-sam", *options)
    whole = train(wanted, data, RunFolder(tmp_path / "whole"))
    found = Branching(require_trunk(wanted, first))
    branched = train(wanted, data, RunFolder(tmp_path / "branch"), RunOptions(branching=found))
    assert_same_run(branched, whole)
    assert {row["stage"] for row in read_rows(branched.metrics_file)} == {2}
    for which in ("0", "3", "best", "last"):
        assert load_checkpoint(branched.checkpoint(which))["recipe"] == wanted.to_toml()


def monitor(data):
    samples = ImageSamples(data.train, data.groups)
    return CurvatureMonitor(torch.nn.CrossEntropyLoss(), samples, groups=["tail"], every=2)


def test_a_trunk_whose_curvature_was_watched_otherwise_is_refused(tmp_path, data):
    keep, wanted = Branching(keep=frozenset({1})), recipe("sse-sam")

    def trained(of, name, **options):
        return train(of, data, RunFolder(tmp_path / name), RunOptions(**options))

    plain = trained(recipe("sam-ext"), "plain", branching=keep)
    watched = trained(recipe("sam-ext"), "watched", branching=keep, monitor=monitor(data))
    for first, own, says in (
        (plain, monitor(data), "trained with no --monitor, this run has --monitor tail"),
        (watched, None, "trained with --monitor tail --monitor-every 2, this run has no --monitor"),
    ):
        found = Branching(require_trunk(wanted, first))
        with pytest.raises(DataError, match=says):
            trained(wanted, "branch", branching=found, monitor=own)
        assert not (tmp_path / "branch").exists()
    found = Branching(require_trunk(wanted, watched))
    whole = trained(wanted, "whole", monitor=monitor(data))
    assert_same_run(trained(wanted, "branch", branching=found, monitor=monitor(data)), whole)


def test_recipes_that_differ_in_more_than_the_radii_share_nothing():
    plain = recipe("sam-ext")
    assert shared_epochs(plain, recipe("sam-ext")) == 4
    assert shared_epochs(plain, recipe("sam-ext", "method.rho=0.5")) == 4  # SAM's, which is unused
    assert shared_epochs(plain, recipe("sam-ext", "method.rho_tail=0.5")) == 0
    assert shared_epochs(plain, recipe("sse-sam", "training.seed=1")) == 0
    assert shared_epochs(plain, recipe("sse-sam", "method.bn_statistics=every-pass")) == 0
    assert shared_epochs(plain, recipe("sse-sam", "training.epochs=5")) == 0
    assert shared_epochs(plain, recipe("sse-sam", "method.gamma=0.0")) == 0


def test_a_sweep_finds_its_trunks():
    methods = ("sgd", "sam-ext", "sse-sam", "sam", "imbsam")
    plan = (*(recipe(m) for m in methods), recipe("sgd", "method.first_stage=sam-ext"))
    assert [trunk_of(i, plan) for i in range(6)] == [
        (-1, 0), (-1, 0), (1, 2), (-1, 0), (-1, 0), (1, 2),
    ]  # fmt: skip
    assert [branch_epochs(i, plan) for i in range(6)] == [set(), {1}, set(), set(), set(), set()]


def test_a_branch_that_is_not_one_is_refused(tmp_path, data):
    first = train(recipe("sam-ext"), data, RunFolder(tmp_path / "trunk"))
    with pytest.raises(UsageError, match=r"from the first one on \(method.name = 'sam-ext'"):
        require_trunk(recipe("sgd"), first)
    with pytest.raises(DataError, match="keeps no checkpoint of the 2 epochs that both share"):
        require_trunk(recipe("sse-sam"), first)
    plan = (recipe("sam-ext"), recipe("sse-sam"))
    assert in_a_sweep(plan[1], plan, tmp_path).trunk is None  # no such folder: in one piece
    with pytest.raises(DataError, match="not a run folder"):
        require_trunk(recipe("sse-sam"), RunFolder(tmp_path / "nowhere"))


def test_a_trunk_of_other_data_is_refused(tmp_path, data):
    kept = Branching(keep=frozenset({1}))
    first = train(
        recipe("sam-ext"), data, RunFolder(tmp_path / "trunk"), RunOptions(branching=kept)
    )
    run = first.run_file.read_text()
    first.run_file.write_text(run.replace(data.checksum, "0" * 64))
    wanted = recipe("sse-sam")
    found = Branching(require_trunk(wanted, first))
    with pytest.raises(DataError, match="other data"):
        train(wanted, data, RunFolder(tmp_path / "branch"), RunOptions(branching=found))


def test_killed_while_branching_it_still_becomes_the_same_run(tmp_path, data):
    """Without a checkpoint of its own the folder may hold the later rows of the trunk."""
    wanted = recipe("sse-sam")
    kept = Branching(keep=frozenset({1}))
    first = train(
        recipe("sam-ext"), data, RunFolder(tmp_path / "trunk"), RunOptions(branching=kept)
    )
    whole = train(wanted, data, RunFolder(tmp_path / "whole"))
    for trunk in (Branching(require_trunk(wanted, first)), Branching()):
        folder = RunFolder(tmp_path / f"cut-{trunk.trunk is None}")
        train(wanted, data, folder, RunOptions(branching=trunk))
        folder.checkpoint("last").unlink()
        folder.metrics_file.write_bytes(first.metrics_file.read_bytes())
        write_json(folder.run_file, folder.run() | {"state": "running"})
        train(wanted, data, folder, RunOptions(branching=trunk, resume=True))
        assert_same_run(folder, whole)
