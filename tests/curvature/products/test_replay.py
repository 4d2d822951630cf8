"""Recordings on fixed buffers: the discipline is tested on any device, CUDA graphs on CUDA."""

import logging
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from saddlescope.curvature import HessianOperator, Programs
from saddlescope.curvature.objective.samples import usual_batch_size
from saddlescope.curvature.products import strategy
from saddlescope.curvature.products.replay import (
    SIZES,
    CudaGraphs,
    Recordings,
    Replay,
    free_recordings,
    recorded_size,
)
from tests.curvature.networks import convolutional, images


def rerun(function):
    """What a captured graph does: the same addresses are read and written, nothing is passed."""
    results = [result.clone() for result in function()]

    def run():
        for result, new in zip(results, function(), strict=True):
            result.copy_(new)

    return results, run


def test_sizes_waste_at_most_a_half():
    for count in range(1, SIZES[-1] + 1):
        assert count <= recorded_size(count) <= 1.5 * count
    assert recorded_size(SIZES[-1] + 1) is None


class Holder:
    pass


def test_holders_take_turns():
    def function(kept, direction):
        return [kept[0] * direction[0] + kept[1]]

    one, two = ([torch.tensor([2.0]), 3], Holder()), ([torch.tensor([5.0]), 3], Holder())
    replay = Replay(function, one[0], [torch.zeros(1)], record=rerun)
    for (kept, holder), at, expected in [
        (one, 1.0, 5.0), (one, 2.0, 7.0), (two, 1.0, 8.0), (one, 1.0, 5.0),
    ]:  # fmt: skip
        (found,) = replay(holder, kept, [torch.tensor([at])])
        assert float(found) == expected
    assert float(one[0][0]) == 2.0  # what was handed over is never written


@pytest.fixture
def recorded(monkeypatch):
    """Products of these operators are recorded at size 16, by calling again."""
    monkeypatch.setattr(strategy, "replayed_size", lambda *_: 16)
    monkeypatch.setattr("saddlescope.curvature.products.strategy.CudaGraphs", lambda: rerun)


def operators(*sizes, programs=None):
    model, criterion = convolutional(), nn.CrossEntropyLoss()
    batches = [images(n, seed=n) for n in sizes]
    return [HessianOperator(model, criterion, [b], programs=programs) for b in batches]


def probe_for(operator):
    return torch.ones(operator.size, dtype=torch.float64)


@pytest.mark.usefixtures("recorded")
def test_operators_that_share_a_recording_do_not_mix():
    shared, alone = operators(9, 13, programs=Programs("traced")), operators(9, 13)
    shared_model = shared[0].objective.model
    assert all(
        torch.equal(one, two)
        for one, two in zip(
            shared_model.parameters(), alone[0].objective.model.parameters(), strict=True
        )
    )
    for index in (0, 1, 0, 0, 1):
        found = shared[index].matvec(probe_for(shared[index]))
        truth = alone[index].matvec(probe_for(alone[index]))
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-11)


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def ends_badly():
    """What torch.cuda.graph does where memory ran out inside: another error takes its place."""
    try:
        raise OUT_OF_MEMORY
    finally:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


@pytest.mark.parametrize(
    ("fail", "reason"),
    [(ends_badly, "out of memory"), (lambda: torch.ones(2).view(3), "shape '[3]' is invalid")],
)
@pytest.mark.usefixtures("recorded")
def test_what_cannot_be_recorded_is_launched_and_said_once(monkeypatch, caplog, fail, reason):
    tried = []

    def refuse(function):
        tried.append(1)
        fail()

    monkeypatch.setattr("saddlescope.curvature.products.strategy.CudaGraphs", lambda: refuse)
    (found,), (plain,) = operators(9, programs=Programs("traced")), operators(9)
    with caplog.at_level(logging.WARNING, "saddlescope.curvature"):
        products = [found.matvec(probe_for(found)) for _ in range(2)]
    assert len(tried) == 1
    notes = [r.message for r in caplog.records if r.name == "saddlescope.curvature"]
    (note,) = (note for note in notes if "kernel by kernel" in note)
    assert note.startswith("products: batches of 16 samples are launched")
    assert reason in note
    for product in products:
        torch.testing.assert_close(product, plain.matvec(probe_for(plain)), rtol=1e-9, atol=1e-11)
    assert found.retained == 1.0  # nothing else was given up


@pytest.mark.usefixtures("recorded")
def test_recordings_are_counted_and_given_back_when_memory_runs_out(caplog):
    (found,) = operators(9, programs=Programs("traced"))
    truth = found.matvec(probe_for(found))
    recordings = found.products._kept[0]._recordings
    # The weights alone are copied into its buffers, and the result is as large again.
    assert recordings.nbytes > 2 * found.size * 8
    found.products._take_less()
    assert recordings.nbytes == 0
    assert "nothing is retained" in caplog.text
    torch.testing.assert_close(found.matvec(probe_for(found)), truth, rtol=1e-12, atol=1e-13)
    assert recordings.nbytes > 0
    assert free_recordings()
    assert not free_recordings()


def test_new_recordings_take_the_place_of_old_ones_where_both_do_not_fit(monkeypatch):
    def double(kept, direction):
        return [kept[0] * direction[0]]

    recordings = Recordings(rerun)
    one, large = [torch.ones(1)], [torch.ones(100)]
    monkeypatch.setattr("saddlescope.curvature.products.replay.default_budget", lambda device: 2000)
    for size in (1, 2):
        recordings.get(size, double, one, one)
    assert recordings.nbytes == 2 * 12
    recordings.get(100, double, large, large)
    assert recordings.nbytes == 2 * 12 + 1200
    recordings.get(101, double, large, large)  # 1600 more are over
    assert recordings.nbytes == 1200


class FakeCuda:
    """The calls of torch.cuda that a capture makes, as far as streams and pools go."""

    def __init__(self, monkeypatch, *, ends):
        self.current, self.ended, self.ends = "outside", [], ends
        fake = self

        class Stream:
            def wait_stream(self, other):
                pass

        self.outside = Stream()
        self.current = self.outside

        @contextmanager
        def stream(chosen):
            before, fake.current = fake.current, chosen
            yield
            fake.current = before

        class Capture:
            def __init__(self, graph, pool, stream):
                pass

            def __enter__(self):
                fake.before, fake.current = fake.current, "capturing"

            def __exit__(self, *args):
                if fake.ends is not None:
                    raise fake.ends  # and the stream is not put back, as in torch
                fake.current = fake.before

        class Graph:
            def replay(self):
                pass

        for name, value in {
            "Stream": Stream, "stream": stream, "graph": Capture, "CUDAGraph": Graph,
            "graph_pool_handle": lambda: "pool", "current_stream": lambda: fake.current,
            "set_stream": lambda chosen: setattr(fake, "current", chosen),
            "current_device": lambda: 0,
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(
            torch._C, "_cuda_endAllocateToPool", lambda _, pool: self.ended.append(pool),
            raising=False,
        )  # fmt: skip


def test_a_capture_that_fails_leaves_neither_its_stream_nor_its_pool_in_use(monkeypatch):
    cuda = FakeCuda(monkeypatch, ends=RuntimeError("capture_end"))
    with pytest.raises(RuntimeError, match="capture_end"):
        CudaGraphs()(lambda: [torch.ones(1)])
    assert cuda.current is cuda.outside
    assert cuda.ended == ["pool"]


def test_a_capture_runs_the_function_three_times_and_ends_where_it_began(monkeypatch):
    cuda, ran = FakeCuda(monkeypatch, ends=None), []
    results, run = CudaGraphs()(lambda: [torch.tensor(float(ran.append(1) or len(ran)))])
    run()
    assert (len(ran), float(results[0])) == (3, 3.0)
    assert cuda.current is cuda.outside
    assert not cuda.ended


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_products_equal_eager_ones():
    model, criterion = convolutional(dtype=torch.float32).cuda(), nn.CrossEntropyLoss()
    programs = Programs("traced")
    for n in (3, 12, 11, 77):
        batch = images(n, dtype=torch.float32)
        captured = HessianOperator(model, criterion, [batch], programs=programs)
        plain = HessianOperator(model, criterion, [batch])
        for seed in range(3):
            probe = torch.randn(plain.size, generator=torch.Generator().manual_seed(seed)).cuda()
            torch.testing.assert_close(
                captured.matvec(probe), plain.matvec(probe), rtol=1e-4, atol=1e-5
            )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_after_a_capture_that_fails_others_succeed():
    record = CudaGraphs()
    value = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError):
        record(lambda: [value * float(value.sum())])  # asks the device within the capture
    results, run = record(lambda: [value * 2.0])
    value.fill_(5.0)
    run()
    assert results[0].tolist() == [10.0] * 3


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_recordings_comes_back():
    def product(kept, direction):
        return [kept[0] * direction[0]]

    recordings, data = Recordings(CudaGraphs()), [torch.ones(1 << 24, device="cuda")]
    before = torch.cuda.memory_allocated()
    assert recordings.get(1, product, data, data) is not None
    assert torch.cuda.memory_allocated() > before
    free_recordings()
    assert torch.cuda.memory_allocated() == before


def test_on_cuda_the_number_of_rows_decides_whether_a_job_is_traced():
    """Launches cost more than arithmetic there, so operations say nothing."""

    class There:
        class vector:  # noqa: N801
            device = torch.device("cuda")

    for rows, traced in ((strategy.TRACING_PAYS_FROM_ROWS, True), (3, False)):
        programs = Programs("auto")
        programs.expect(There(), [12] * rows)
        assert programs._traces == traced


def test_a_row_that_can_be_recorded_is_one_batch_on_cuda():
    assert usual_batch_size(torch.device("cuda")) >= SIZES[-1]
    assert usual_batch_size(torch.device("cpu")) == 256
