"""The rows of metrics.jsonl as TensorBoard scalars; the file itself stays what is relied on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from saddlescope.errors import UsageError

if TYPE_CHECKING:
    from saddlescope.runs import RunFolder


@contextmanager
def epoch_writer(
    folder: "RunFolder", *, wanted: bool
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield what to call with each new row; where nothing is wanted it does nothing.

    A run that goes on is written anew from its metrics, so that no epoch stands twice.

    Raises:
        UsageError: TensorBoard is not installed.
    """
    if not wanted:
        yield lambda _: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(
            "--tensorboard needs TensorBoard: pip install 'saddlescope[tensorboard]'"
        ) from None
    from saddlescope.runs import read_rows

    place = folder.path / "tensorboard"
    writer: SummaryWriter | None = None

    def add(row: Mapping[str, Any]) -> None:
        for column, value in row.items():
            if column != "epoch" and isinstance(value, int | float):
                writer.add_scalar(column, value, row["epoch"])  # type: ignore[union-attr]
        writer.flush()  # type: ignore[union-attr]

    def on_epoch(row: Mapping[str, Any]) -> None:
        nonlocal writer
        if writer is not None:
            add(row)
            return
        # Only now: a folder that holds something else than a run has been refused before.
        for file in place.glob("events.out.tfevents.*"):
            file.unlink()
        writer = SummaryWriter(str(place))
        for before in read_rows(folder.metrics_file):  # this row is the last of them
            add(before)

    try:
        yield on_epoch
    finally:
        if writer is not None:
            writer.close()
