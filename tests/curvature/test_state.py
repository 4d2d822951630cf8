"""A model is left as it was, BatchNorm's running statistics in train mode included."""

import torch
from networks import convolutional, images
from torch import nn

from saddlescope.curvature import HessianOperator
from saddlescope.curvature.state import untouched


def test_running_statistics_of_a_model_in_train_mode_are_put_back():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with untouched(model), torch.enable_grad():
        model(torch.randn(8, 3)).sum().backward()
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_flags_gradients_and_random_states_are_put_back():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones(4, 3)
    state = torch.get_rng_state()
    try:
        with untouched(model):
            model.eval()
            model[0].bias.requires_grad_(True)
            model[0].weight.grad = None
            torch.rand(3)
            raise KeyError
    except KeyError:
        pass
    assert model.training
    assert model[1].training
    assert not model[0].bias.requires_grad
    assert torch.equal(model[0].weight.grad, torch.ones(4, 3))
    assert torch.equal(torch.get_rng_state(), state)


def test_statistics_saved_for_a_backward_pass_are_not_written_in_eval_mode():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    with untouched(model):
        loss = model(torch.randn(8, 3)).sum()
    loss.backward()  # a buffer that was written would make this an error


def test_autocast_around_a_product_changes_nothing():
    # In float32: autocast leaves float64 alone.
    model, data = convolutional(dtype=torch.float32).eval(), images(6, dtype=torch.float32)
    vector = torch.ones(sum(p.numel() for p in model.parameters()))
    plain = HessianOperator(model, nn.CrossEntropyLoss(), [data]).matvec(vector)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = HessianOperator(model, nn.CrossEntropyLoss(), [data]).matvec(vector)
    assert torch.equal(plain, within)
