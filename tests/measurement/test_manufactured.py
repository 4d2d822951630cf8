"""Saddles made by hand: the symmetry and the vanishing gradient they promise."""

import pytest
import torch
from torch import nn

from saddlescope.errors import UsageError
from saddlescope.experiments import Walk, manufacture, measure_escape
from saddlescope.experiments.manufactured import displace
from saddlescope.measurement import Target
from saddlescope.measurement.directions import UpdateRule
from saddlescope.models import build_model
from tests.measurement.small import GROUPS, Dense, target


def network(name="resnet8", **options):
    model = build_model(name, num_classes=4, in_channels=1, seed=0, **options).double()
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():  # statistics and scales as training leaves them
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet8", {}), ("resnet8", {"norm": "group"}), ("resnet34", {}),
     ("resnet8", {"classifier": "cosine"}), ("two-layer-linear", {})],
)  # fmt: skip
def test_channels_are_equal_two_by_two(name, options):
    """Twins compute the same, and the gradient does not tell them apart."""
    model = network(name, **options)
    torch.manual_seed(2)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    images, labels = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    manufacture(model, "symmetric", labels)
    seen = {}
    model.fc.register_forward_hook(lambda _, inputs, __: seen.update(features=inputs[0]))
    nn.functional.cross_entropy(model(images), labels).backward()
    features = seen["features"]
    assert features.abs().max() > 0
    # Deep sums of large numbers: rounding is relative to the largest.
    apart = (features[:, 0::2] - features[:, 1::2]).abs().max()
    assert apart < 1e-11 * features.abs().max()
    classifier = model.fc.weight
    torch.testing.assert_close(classifier[:, 0::2], classifier[:, 1::2])
    gradient = classifier.grad
    assert gradient.abs().max() > 0
    apart = (gradient[:, 0::2] - gradient[:, 1::2]).abs().max()
    assert apart < 1e-10 * gradient.abs().max()


def test_without_rank_the_gradient_is_zero_and_the_saddle_strict():
    of = target()
    model = of.model
    with torch.no_grad():
        model[0].bias.add_(0.5)
    manufacture(model, "rank-deficient", of.samples.targets)
    dense = Dense(of)
    assert dense.gradient().abs().max() < 1e-15
    values = torch.linalg.eigvalsh(dense.hessian)
    assert values[0] < -1e-3
    assert values[-1] > 1e-3
    shares = torch.bincount(of.samples.targets).double() / 41
    torch.testing.assert_close(model(of.samples.values).softmax(1)[0], shares)


def test_a_class_without_samples_is_no_infinity():
    model = network()
    manufacture(model, "rank-deficient", torch.tensor([0, 0, 1]))
    assert torch.isfinite(model.fc.bias).all()


def test_refusals():
    labels = torch.tensor([0, 1])
    with pytest.raises(UsageError, match="no start 'flat'"):
        manufacture(network(), "flat", labels)
    with pytest.raises(UsageError, match="two weight layers"):
        manufacture(nn.Linear(3, 2), "symmetric", labels)
    with pytest.raises(UsageError, match="CosineClassifier"):
        manufacture(network(classifier="cosine"), "rank-deficient", labels)
    grouped = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Linear(4, 2))
    with pytest.raises(UsageError, match="grouped"):
        manufacture(grouped, "symmetric", labels)
    before = network()
    after = network()
    manufacture(after, "checkpoint", labels)
    assert all((x == y).all() for x, y in zip(before.parameters(), after.parameters(), strict=True))


def test_displacements_have_their_length_and_are_repeated():
    first, second = ([torch.zeros(3, 4), torch.zeros(5)] for _ in range(2))
    displace(first, 0.25, seed=3)
    displace(second, 0.25, seed=3)
    assert torch.cat([p.reshape(-1) for p in first]).norm() == pytest.approx(0.25, rel=1e-6)
    assert all((x == y).all() for x, y in zip(first, second, strict=True))
    displace(second, 0.25, seed=4)
    assert not (first[0] == second[0]).any()


def test_escape_from_a_saddle_follows_every_stage():
    of = target(rule=UpdateRule(0.05, 0.05, 0.1))
    with torch.no_grad():
        of.model[0].bias.add_(0.5)
    of = Target(of.model, of.criterion, of.samples, of.identity, of.rule)
    options = {"steps": 10, "eta": 0.3, "start": "rank-deficient"}
    at_rest = measure_escape(of, Walk(**options), methods=("sgd",), seed=1)
    assert at_rest.rows[-1]["along"] == pytest.approx(0, abs=1e-12)
    moved, methods = Walk(offset=1e-3, **options), ("sam-ext", "imbsam", "sse-sam")
    found = measure_escape(of, moved, methods=methods, seed=1)
    rows = {(r["method"], r["step"]): r for r in found.rows}
    assert rows["sse-sam", 0]["start"] == "rank-deficient"
    # 0.7 of 10 steps as SAM (ext.), then as ImbSAM.
    assert rows["sse-sam", 7]["along"] == rows["sam-ext", 7]["along"]
    assert rows["sse-sam", 8]["along"] != rows["sam-ext", 8]["along"]
    assert rows["sse-sam", 0]["along"] == rows["imbsam", 0]["along"] == 0.0
    assert GROUPS["tail"] == (1, 2)
    with pytest.raises(UsageError, match="offset"):
        Walk(steps=1, eta=0.1, offset=-1.0)
