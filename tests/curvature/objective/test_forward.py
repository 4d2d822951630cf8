"""Folding BatchNorm changes the cost of a product and nothing else."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saddlescope.curvature import HessianOperator
from saddlescope.curvature.objective.forward import Folding
from saddlescope.curvature.reference import dense_matrix
from tests.curvature.networks import convolutional, dense_hessian, images


def statistics(model):
    """Give every BatchNorm running statistics that matter."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias)
    return model.double().eval()


class Shared(nn.Module):
    """The convolution's output is also used without its BatchNorm: it must not be folded."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 4)

    def forward(self, x):
        y = self.conv(x)
        return self.last(torch.tanh(self.norm(y) + y).mean((2, 3)))


class Twice(nn.Module):
    """One convolution, called twice, before two BatchNorms."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        self.one, self.two, self.last = nn.BatchNorm2d(1), nn.BatchNorm2d(1), nn.Linear(64, 4)

    def forward(self, x):
        y = torch.tanh(self.one(self.conv(x)))
        return self.last(torch.tanh(self.two(self.conv(y))).flatten(1))


class Features(nn.Module):
    """Returns its convolution's output beside the logits: it must not be folded either."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(72, 4)

    def forward(self, x):
        y = self.conv(x)
        return {"logits": self.last(torch.tanh(self.norm(y)).flatten(1)), "more": [y]}


class Wrapped(Features):
    """The same, in a class that torch does not know."""

    def forward(self, x):
        return SimpleNamespace(**super().forward(x))


MODELS = {
    "convolution": (convolutional, 1),
    "no-affine": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, bias=False),
            nn.BatchNorm2d(2, affine=False),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(72, 4),
        ),
        1,
    ),
    "linear": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)
        ),
        1,
    ),
    "no-statistics": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Tanh(), nn.Flatten(), nn.Linear(72, 4)
        ),
        0,
    ),
    "shared": (Shared, 0),
    "twice": (Twice, 2),
}


@pytest.mark.parametrize("name", MODELS)
def test_hessian_in_the_original_parameters_is_unchanged(name):
    make, folded = MODELS[name]
    torch.manual_seed(0)
    model, (inputs, targets) = statistics(make()), images(7)
    operator = HessianOperator(model, nn.CrossEntropyLoss(), [(inputs, targets)])
    assert len(operator.objective.folding.folded) == folded
    truth = dense_hessian(model, lambda f: F.cross_entropy(f(inputs), targets))
    torch.testing.assert_close(dense_matrix(operator), truth, rtol=1e-9, atol=1e-12)


def test_a_model_that_takes_another_path_is_run_unfolded():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x):
            y = self.conv(x)
            return (self.norm(y) if len(x) == 1 else self.norm(y) * y).mean((2, 3))

    model, (inputs, _) = statistics(Moody()), images(5)
    folding = Folding(model, inputs)
    assert folding.folded == {0}
    torch.testing.assert_close(folding.run(model, inputs), model(inputs))
    assert not folding.folded


@pytest.mark.parametrize("make", [Features, Wrapped])
def test_layers_whose_output_leaves_the_model_are_not_folded(make):
    def criterion(outputs, targets):
        outputs = outputs if isinstance(outputs, dict) else vars(outputs)
        return F.cross_entropy(outputs["logits"], targets) + outputs["more"][0].square().mean()

    torch.manual_seed(0)
    model, (inputs, targets) = statistics(make()), images(7)
    operator = HessianOperator(model, criterion, [(inputs, targets)])
    assert not operator.objective.folding.folded
    truth = dense_hessian(model, lambda f: criterion(f(inputs), targets))
    torch.testing.assert_close(dense_matrix(operator), truth, rtol=1e-9, atol=1e-12)


def test_a_model_that_views_its_images_keeps_their_layout():
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 2, 3), nn.Linear(72, 4)

        def forward(self, x):
            return self.last(torch.tanh(self.conv(x)).view(-1, 72))

    torch.manual_seed(0)
    model = Viewing()
    batch = (torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0]))
    operator = HessianOperator(model, nn.CrossEntropyLoss(), [batch])
    assert not operator.objective.folding.channels_last
    assert operator.loss == pytest.approx(F.cross_entropy(model(batch[0]), batch[1]).item())


def test_images_go_channels_last_and_vectors_do_not():
    inputs, _ = images(5, dtype=torch.float32)
    wide = inputs.expand(5, 3, 8, 8)
    folding = Folding(nn.Conv2d(3, 2, 3), wide)
    assert folding.prepare(wide).is_contiguous(memory_format=torch.channels_last)
    assert folding.prepare(wide.double()).stride() == wide.double().stride()
    flat = Folding(nn.Linear(8, 2), wide)
    assert flat.prepare(wide) is wide


def test_few_images_for_many_weights_stay_as_they_are():
    """64 outputs an image, 300 weights: five images are worth laying the weights out for."""
    inputs = torch.randn(10, 3, 4, 4)
    folding = Folding(nn.Conv2d(3, 4, 5, padding=2).eval(), inputs)
    assert folding.channels_last
    assert folding.prepare(inputs).is_contiguous(memory_format=torch.channels_last)
    few = inputs[:4].contiguous()
    assert folding.prepare(few) is few
    assert folding.lay_out(few).is_contiguous(memory_format=torch.channels_last)
