"""A model and torch's settings are left as they were; float32 means float32 meanwhile."""

import pytest
import torch
from torch import nn

from saddlescope.curvature import CurvatureMonitor, HessianOperator, Programs, extreme_eigenvalues
from saddlescope.curvature.objective.state import exact_arithmetic, tf32, untouched
from tests.curvature.networks import convolutional, images


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


def precisions():
    """Everything torch says of the precision of float32; None where it refuses to say."""
    newer = torch._C._get_fp32_precision_getter
    found = [
        newer(backend, user)
        for backend, user in [("generic", "all")] + [
            (backend, user) for backend in ("cuda", "mkldnn") for user in ("matmul", "conv", "rnn")
        ]
    ]  # fmt: skip
    for ask in (
        torch.get_float32_matmul_precision,
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda: torch.backends.cudnn.allow_tf32,
    ):
        try:
            found.append(ask())
        except RuntimeError:
            found.append(None)
    return found


@pytest.fixture
def settings():
    """Torch's own settings of the precision, put back by the newer interface and the older."""
    yield
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for user in ("matmul", "conv", "rnn"):
        torch._C._set_fp32_precision_setter("mkldnn", user, "none")
        torch._C._set_fp32_precision_setter("cuda", user, "none" if user == "matmul" else "tf32")


CALLERS = {
    "nothing": lambda: None,
    "older": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "older, cudnn": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "newer": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "newer, conv": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    "all": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),  # bfloat16 on a CPU
}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.usefixtures("settings")
def test_whatever_a_caller_has_set_float32_is_exact_and_the_setting_comes_back(caller):
    """Reading the older interface raises where a caller has used the newer one."""
    CALLERS[caller]()
    before = precisions()
    with exact_arithmetic():
        assert precisions()[1:] == ["ieee"] * 6 + ["highest", False, False]
    assert precisions() == before
    with tf32(allowed=True):
        assert precisions()[1:4] == ["tf32"] * 3
        assert precisions()[-3:] == ["high", True, True]
    assert precisions() == before
    with pytest.raises(ZeroDivisionError), exact_arithmetic():
        raise ZeroDivisionError
    assert precisions() == before


@pytest.mark.usefixtures("settings")
def test_a_measurement_after_the_newer_interface_was_used():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    operator = HessianOperator(convolutional(), nn.CrossEntropyLoss(), [images(4)])
    assert torch.isfinite(operator.matvec(torch.ones(operator.size).double())).all()


def compiled_in_place(model):
    model.compile(backend="aot_eager")
    return model


def compiled_part(model):
    model[0].compile(backend="aot_eager")
    return model


def wrapped(model):
    return torch.compile(model, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using `torch.compile")  # of the wrapper, under a flop counter
@pytest.mark.parametrize("compile_it", [compiled_in_place, compiled_part, wrapped])
@pytest.mark.parametrize("strategy", ["double-backward", "traced"])
def test_a_compiled_model_is_measured_as_it_is_written(compile_it, strategy):
    """Compiled code refuses a second derivative ("does not currently support double backward")."""
    plain, data, criterion = convolutional(), images(6), nn.CrossEntropyLoss()
    model = compile_it(convolutional())
    model.train(False)
    expected = HessianOperator(plain, criterion, [data])
    programs = Programs(strategy)
    found = HessianOperator(model, criterion, [data], programs=programs)
    assert programs.traced == (strategy == "traced")
    probe = torch.ones(expected.size, dtype=torch.float64)
    torch.testing.assert_close(found.matvec(probe), expected.matvec(probe), rtol=1e-9, atol=1e-11)
    (row,) = CurvatureMonitor(criterion, data)(model, 0)
    assert row.n == 6
    # It is compiled still: what it was called with before, it is called with again.
    assert model(data[0]).shape == plain(data[0]).shape


class Logging(nn.Module):
    """Counts and keeps what it sees, in containers that others hold too."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.counts, self.seen, self.kinds = {"calls": 0, "last": None}, [], {"start"}

    def forward(self, x):
        self.counts["calls"] += 1
        self.counts["last"] = x
        self.seen.append(x)
        self.kinds.add(str(x.dtype))
        return self.layer(x)


def test_what_a_model_writes_into_its_containers_is_put_back():
    torch.manual_seed(0)
    model, x = Logging().eval(), torch.randn(9, 3)
    model(x)
    counts, seen = model.counts, model.seen
    ends = extreme_eigenvalues(
        HessianOperator(model, nn.CrossEntropyLoss(), [(x, torch.arange(9) % 2)])
    )
    assert (model.counts, model.seen) == ({"calls": 1, "last": x}, [x])
    assert model.counts is counts
    assert model.seen is seen
    assert model.kinds == {"start", "torch.float32"}
    assert ends.notes == ()
