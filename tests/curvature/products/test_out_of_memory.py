"""Memory that runs out: the same numbers from smaller batches, or an error that says what fits."""

import logging

import pytest
import torch
from torch import nn

from saddlescope.curvature import GaussNewtonOperator, HessianOperator, Objective
from saddlescope.curvature.krylov.lanczos import _empty_basis
from saddlescope.curvature.memory import is_out_of_memory
from saddlescope.errors import MemoryLimitError, UsageError
from tests.curvature.networks import convolutional, images, split_batches


def cuda_error():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def cpu_error():
    return RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 1073741824 bytes."
    )


class Limited(nn.Module):
    """The small network on a device whose memory holds `limit` samples."""

    def __init__(self, limit, *, error=cuda_error):
        super().__init__()
        self.inner, self.limit, self.error = convolutional(), limit, error
        self.calls = []

    def forward(self, x):
        self.calls.append(len(x))
        if len(x) > self.limit:
            raise self.error()
        return self.inner(x)


@pytest.fixture
def probe():
    size = sum(p.numel() for p in convolutional().parameters())
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
@pytest.mark.parametrize("error", [cuda_error, cpu_error, MemoryError])
@pytest.mark.parametrize(("limit", "largest"), [(6, 6), (5, 3), (1, 1)])
def test_batches_are_halved_until_they_fit(kind, error, limit, largest, probe, caplog):
    data = split_batches(images(17), 12, 5)
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 3.0]).double())
    expected = kind(convolutional(), criterion, data)
    with caplog.at_level(logging.WARNING, "saddlescope.curvature"):
        found = kind(Limited(limit, error=error), criterion, data)
        product = found.matvec(probe)
    assert found.objective.chunk == largest
    assert f"batches of at most {largest} samples" in caplog.text
    torch.testing.assert_close(product, expected.matvec(probe), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-12, atol=1e-13)
    assert found.loss == pytest.approx(expected.loss, rel=1e-13)
    found.verify()
    reference = found.objective.double()
    assert next(len(batch.targets) for batch in reference.batches()) == largest


def test_retention_is_dropped_first_and_the_cost_says_so(probe, caplog):
    """Kept batches leave too little for a product: 8 samples fit until something is retained."""
    data = split_batches(images(16), 8, 8)
    expected = HessianOperator(convolutional(), nn.CrossEntropyLoss(), data)
    found = HessianOperator(Limited(8), nn.CrossEntropyLoss(), data)
    (kept,) = found.products._kept

    def apply(parts):
        raise cuda_error()

    kept.apply = apply
    with caplog.at_level(logging.WARNING, "saddlescope.curvature"):
        product = found.matvec(probe)
    assert [record.message for record in caplog.records] == [
        "out of memory: nothing is retained between products from here on"
    ]
    assert (found.retained, found.products.nbytes, found.products.cost) == (0.0, 0, 3.0)
    assert found.objective.chunk is None
    torch.testing.assert_close(product, expected.matvec(probe), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found.matvec(probe), product, rtol=0, atol=0)


def test_running_out_in_the_first_pass_begins_it_anew(probe):
    """The second batch is larger than memory: the loss and gradient count the first only once."""
    data = split_batches(images(12), 4, 8)
    expected = HessianOperator(convolutional(), nn.CrossEntropyLoss(), data)
    found = HessianOperator(Limited(4), nn.CrossEntropyLoss(), data)
    assert found.retained == 0.0
    assert found.loss == pytest.approx(expected.loss, rel=1e-13)
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found.matvec(probe), expected.matvec(probe), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_pieces_of_a_batch_keep_their_exact_share(reduction):
    inputs, targets = images(11)
    targets[[2, 5]] = -100  # ignored
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 0.5, 3]).double(),
                                    reduction=reduction)  # fmt: skip
    objective = Objective(convolutional(), criterion, [(inputs, targets)])
    whole = objective.loss()
    for chunk in (6, 3, 2, 1):
        assert objective.halve() == chunk
        assert objective.loss() == pytest.approx(whole, rel=1e-13)
    assert objective.halve() is None


def test_dicts_and_tuples_are_divided_and_what_has_no_rows_is_not():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = convolutional()

        def forward(self, x, shift):
            return self.inner(x + shift)

    inputs, targets = images(6)
    rows = {"x": inputs, "shift": torch.linspace(0, 1, 6).double().view(6, 1, 1, 1)}
    objective = Objective(Sum(), nn.CrossEntropyLoss(), [(rows, targets)])
    whole = objective.loss()
    assert objective.halve() == 3
    assert len(list(objective.batches())) == 2
    assert objective.loss() == pytest.approx(whole, rel=1e-13)
    shared = {"x": inputs, "shift": torch.ones(1, 1, 8, 8).double()}
    assert Objective(Sum(), nn.CrossEntropyLoss(), [(shared, targets)]).halve() is None


def test_nothing_smaller_left_says_what_would_fit():
    with pytest.raises(MemoryLimitError, match=r"batches of 1 samples .* MiB are free.*basis"):
        HessianOperator(Limited(0.5), nn.CrossEntropyLoss(), [images(4)])


def test_other_errors_are_passed_on():
    def other():
        return RuntimeError("shapes cannot be multiplied")

    with pytest.raises(UsageError, match="RuntimeError: shapes cannot be multiplied") as seen:
        HessianOperator(Limited(2, error=other), nn.CrossEntropyLoss(), [images(4)])
    assert isinstance(seen.value.__cause__, RuntimeError)
    assert not is_out_of_memory(ValueError("can't allocate memory"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    # torch.AcceleratorError, what the driver says where torch's allocator was not asked
    accelerator = getattr(torch, "AcceleratorError", RuntimeError)
    assert is_out_of_memory(accelerator("CUDA error: out of memory"))


def test_an_error_in_the_place_of_running_out_is_recognised_and_a_later_one_is_not():
    def hidden(*, chained):
        try:
            try:
                raise cuda_error()
            finally:
                error = RuntimeError("CUDA error: operation failed during capture")
                if not chained:
                    raise error from None
                raise error
        except RuntimeError as found:
            return found

    assert is_out_of_memory(hidden(chained=True))
    assert not is_out_of_memory(hidden(chained=False))


def test_a_basis_that_cannot_be_allocated_says_how_many_vectors_fit():
    class Huge:
        size, dtype, device = 1 << 40, torch.float64, torch.device("cpu")

    with pytest.raises(MemoryLimitError, match=r"basis of 1001 vectors .* at most 0 vectors fit"):
        _empty_basis(1001, Huge())
