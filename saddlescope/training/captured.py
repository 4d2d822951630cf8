"""Steps recorded once and replayed: all passes of a method and its update, as one launch.

A ResNet-32's step launches many hundreds of kernels of a few microseconds each, and a GPU spends
most of it waiting for them. A CUDA graph launches them at once, on fixed addresses: an epoch's
augmented pixels and positions go to the device beforehand, and a counter there picks the batch. The
host knows each batch's composition, so there is one recording for each set of groups that a batch
can have: no group is ever empty inside one, and the passes are those of `Steps`. Radii are
constants of a recording: others make another. The last, smaller batch of an epoch is taken as
`Steps` takes it.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from saddlescope.curvature import CudaGraphs, Recorder
from saddlescope.errors import UsageError
from saddlescope.longtail import LabelledImages, LongTailData, changed, draw_changes, send
from saddlescope.sharpness import group_factors
from saddlescope.training.recipe import Recipe
from saddlescope.training.steps import Steps

log = logging.getLogger("saddlescope.training")

_GROUPS = ("head", "tail")


def refuse_capture(recipe: Recipe, data: LongTailData, *, processes: int) -> None:
    """Refuse what cannot be recorded.

    Raises:
        UsageError: it names the setting.
    """
    if not isinstance(data.train, LabelledImages):
        reason = f"the images of {data.name} are decoded batch by batch"
    elif recipe.training.compile:
        reason = "training.compile captures in its own way"
    elif recipe.training.precision == "fp16":
        reason = "training.precision = 'fp16' looks at every gradient before a step"
    elif recipe.training.accumulate > 1:
        reason = "training.accumulate splits the batch on the host"
    elif processes > 1:
        reason = "several processes share each batch"
    else:
        return
    raise UsageError(f"training.captured: {reason}; leave one of the two out")


def base_options(recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """Return the options of the base optimiser, so that its step can be recorded.

    A recording reads the step size from its address. Of torch's SGDs the fused one alone does so
    without asking the device for the number.
    """
    if not recipe.training.captured:
        return {"lr": recipe.optimizer.eta}
    return {"lr": torch.tensor(recipe.optimizer.eta, device=device), "fused": True}


def set_step_size(optimizer: torch.optim.Optimizer, eta: float) -> None:
    """Change η of all parameter groups, in the tensor that a recording reads where there is one."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(eta)
        else:
            group["lr"] = eta


class CapturedSteps(Steps):
    """`Steps` whose full batches are recorded and replayed; the same numbers to the bit on a CPU.

    Args:
        *arguments: of `Steps`; the optimiser with `base_options`.
        record: how; None captures CUDA graphs on a stream of its own, and elsewhere calls again.
    """

    def __init__(self, *arguments: Any, record: Recorder | None = None) -> None:
        self._criteria: dict[float | None, torch.nn.Module] = {}
        self._running: Tensor | None = None
        super().__init__(*arguments)
        train, self._size = self.data.train, self.recipe.optimizer.batch_size
        assert isinstance(train, LabelledImages)
        self._train, device = train, train.device
        self._record = _recorder(device) if record is None else record
        self._capacity = max(1, len(train) // self._size)
        rows = (self._capacity, self._size)
        self._pixels = train.images.new_zeros(*rows, *train.image_shape)
        self._positions = torch.zeros(rows, dtype=torch.int64, device=device)
        self._factors = torch.zeros((self._capacity, len(_GROUPS)), device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._recordings: dict[object, Callable[[], None] | None] = {}
        self._addresses: list[int] = []
        self._compositions: list[tuple[int, int]] = []
        self._row = 0
        self._drawn_from = self._augmentation.generator.get_state()

    def begin(self, epoch: int) -> None:
        """See `Steps.begin`; sums and losses keep their addresses."""
        super().begin(epoch)
        if self._running is None:
            self._running = self.sums
        self._running.zero_()
        self.sums = self._running
        beta = self.recipe.loss.weights_beta(epoch, self.recipe.training.epochs)
        self._criterion = self._criteria.setdefault(beta, self._criterion)
        self._compositions, self._row = [], 0

    def images(
        self, batches: Sequence[Tensor], *, before: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Send all full batches to the device and yield the pixels of each; then as `Steps.images`.

        Yields:
            Of a full batch its pixels, uint8, augmented; of the last one, if it is smaller, images.
        """
        full = [batch for batch in batches if len(batch) == self._size]
        if full:
            self._load(full)
        for row in range(len(full)):
            yield self._pixels[row]
        yield from super().images(batches[len(full) :], before=before)

    def _step(self, indices: Tensor, images: Tensor) -> None:
        """See `Steps._step`; full batches in the order of `images`."""
        if len(indices) != self._size:
            super()._step(indices, images)
            return
        tails, samples = self._compositions[self._row]
        groups = tuple(
            name for name, count in zip(_GROUPS, (samples - tails, tails), strict=True) if count
        )
        replay = self._recording(groups if self._grouped else ("all",))
        if replay is None:
            super()._step(indices, images)
            self._at.add_(1)
        else:
            replay()
        self._row += 1

    def _prepared(self, images: Tensor) -> Tensor:
        """See `Steps._prepared`; of a full batch these are pixels."""
        pixels = images.dtype == torch.uint8
        return super()._prepared(self._train.normalise(images) if pixels else images)

    def state_dict(self) -> dict[str, Tensor]:
        """See `Steps.state_dict`; the random stream is where the batches taken have left it."""
        state = super().state_dict()
        if self._row < len(self._compositions) and self.recipe.data.augment:
            generator = torch.Generator()
            generator.set_state(self._drawn_from)
            for _ in range(self._row):
                draw_changes(self._size, generator)
            state["augmentation"] = generator.get_state()
        return state

    def _load(self, batches: list[Tensor]) -> None:
        """Fill the tables from their first row on; draws are those of `Steps`, in its order."""
        table, device = torch.stack(batches), self._train.device
        rows, generator = len(batches), self._augmentation.generator
        reduction = self.recipe.method.group_reduction
        factors = torch.zeros(rows, len(_GROUPS))
        self._compositions, self._row = [], 0
        for row, tails in enumerate(self._is_tail[table].sum(1).tolist()):
            self._compositions.append((tails, self._size))
            found = group_factors(tails, self._size, group_reduction=reduction)
            factors[row] = torch.tensor([found.get(name, 0.0) for name in _GROUPS])
        there = self._positions[:rows].copy_(send(table, device))
        self._factors[:rows] = send(factors, device)
        images = self._train.images[there.flatten()]
        if self.recipe.data.augment:
            self._drawn_from = generator.get_state()
            draws = [draw_changes(self._size, generator) for _ in batches]
            images = changed(images, send(torch.cat(draws, 1), device))
        self._pixels[:rows] = images.view(rows, *self._pixels.shape[1:])
        self._at.zero_()
        self._start_momentum()

    def _start_momentum(self) -> None:
        """Give every parameter its momentum: a first step that made it could not be replayed.

        From zero it becomes what it would have been. Recordings on other addresses are dropped.
        """
        for group in self.optimizer.base.param_groups:
            for parameter in group["params"]:
                state = self.optimizer.base.state[parameter]
                if group["momentum"] and state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
        fixed = [*self._state(), *(group["lr"] for group in self.optimizer.param_groups)]
        addresses = [value.data_ptr() for value in fixed if isinstance(value, Tensor)]
        if addresses != self._addresses:
            self._recordings.clear()
            self._addresses = addresses

    def _state(self) -> list[Tensor]:
        """Everything that a step changes."""
        kept = self.optimizer.base.state.values()
        momentum = [value for state in kept for value in state.values()]
        return [
            *self.model.parameters(), *self.model.buffers(), self._at, self.sums,
            *(value for value in momentum if isinstance(value, Tensor)),
        ]  # fmt: skip

    def _recording(self, groups: tuple[str, ...]) -> Callable[[], None] | None:
        """The step of a batch with these groups; None where it cannot be recorded."""
        key = (groups, tuple(self.optimizer.radii.items()), id(self._criterion))
        if key not in self._recordings:
            self._recordings[key] = self._recorded(groups)
        return self._recordings[key]

    def _recorded(self, groups: tuple[str, ...]) -> Callable[[], None] | None:
        # Recording takes steps, so that libraries choose their kernels: all is put back, in place.
        state = self._state()
        before = [tensor.detach().clone() for tensor in state]
        random = torch.get_rng_state(), _device_rng(self._train.device)
        try:
            _, replay = self._record(self._recordable(groups))
            return replay
        except RuntimeError as error:
            log.warning(
                "steps: launched kernel by kernel, because they could not be recorded: %s",
                str(error).partition("\n")[0],
            )
            return None
        finally:
            with torch.no_grad():
                for tensor, value in zip(state, before, strict=True):
                    tensor.copy_(value)
            torch.set_rng_state(random[0])
            if random[1] is not None:
                torch.cuda.set_rng_state(random[1], self._train.device)

    def _recordable(self, groups: tuple[str, ...]) -> Callable[[], list[Tensor]]:
        """The step of the batch that the counter stands at, and the counter's."""

        def picked(table: Tensor) -> Tensor:
            return table.index_select(0, self._at)[0]

        def step() -> list[Tensor]:
            there, factors = picked(self._positions), picked(self._factors)
            images = self._prepared(picked(self._pixels))
            of_tail = self._tail_there[there].to(torch.float32)
            masks = {"head": 1.0 - of_tail, "tail": of_tail}
            log: float | None = 1.0

            def losses() -> dict[str, Tensor]:
                nonlocal log
                values = self._values(images, there, log=log)
                log = None
                if groups == ("all",):
                    return {"all": values.mean()}
                return {
                    name: torch.dot(values, masks[name]) * factors[_GROUPS.index(name)]
                    for name in groups
                }

            self.optimizer.step(losses)
            # Steps taken while recording run ahead: never past the last row.
            self._at.add_(1).remainder_(self._capacity)
            return []

        return step


def _recorder(device: torch.device) -> Recorder:
    if device.type == "cuda":
        return CudaGraphs(stream=torch.cuda.Stream(device), warm_ups=3)
    return _call_again


def _call_again(function: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
    """What a replay does, where there is none."""

    def run() -> None:
        function()

    return [], run


def _device_rng(device: torch.device) -> Tensor | None:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None
