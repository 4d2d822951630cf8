"""Checkpoints: written atomically, read back as plain tensors and numbers only.

`weights_only=True` refuses everything that could run code on loading.
"""

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.errors import DataError, SaddlescopeError
from saddlescope.runs import write_bytes
from saddlescope.training.foreign_files import (
    Unread,
    is_safetensors,
    read_pickled,
    read_shards,
    refuse_other_files,
    weights_file,
)
from saddlescope.training.foreign_weights import (
    averages,
    chosen_entry,
    completed,
    entry_of,
    fitted,
    say_what_was_taken_off,
)
from saddlescope.training.sealing import opened, sealed


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values atomically, with a checksum of all of them.

    Raises:
        SaddlescopeError: no room, or another reason not to write; what was there before still is.
    """
    # Into memory first: torch's own writer answers a full disk with an assertion.
    buffer = io.BytesIO()
    torch.save(sealed(content), buffer)
    try:
        write_bytes(path, buffer.getbuffer())
    except OSError as error:
        last = path.with_name("last.pt").is_file()
        kept = "last.pt, from before, is kept" if last else "there is no checkpoint yet"
        raise SaddlescopeError(
            f"{path}: cannot be written: {error.strerror or error}; {kept}. Make room and go on "
            "with --resume"
        ) from None


def load_checkpoint(
    path: Path, *, device: torch.device | str = "cpu", strict: bool = True
) -> dict[str, Any]:
    """Read a checkpoint of ours, or anybody's file of tensors.

    Accepts what `torch.save` wrote, `.safetensors`, the index of several such files, and a folder
    of Hugging Face, which has one of these. Where there is a checksum, as in ours, the content is
    held to it.

    Args:
        path: the file or folder.
        device: where the tensors go.
        strict: refuse a file that holds other objects than tensors and plain values; False leaves
            these out, as `Unread`: the options of a training script, hyper-parameters.

    Raises:
        DataError: missing, truncated, damaged, no checkpoint, or holding objects that would run
            code.
    """
    if "\0" in str(path) or not path.exists():
        raise DataError(f"{path}: no such checkpoint")
    path = weights_file(path)
    if path.name.endswith(".index.json"):
        return read_shards(path, lambda part: load_checkpoint(part, device=device, strict=strict))
    refuse_other_files(path)
    try:
        if is_safetensors(path):
            from safetensors.torch import load_file

            content: Any = load_file(path, device=str(device))
        else:
            content = read_pickled(path, device, strict=strict)
    except pickle.UnpicklingError:
        raise DataError(
            f"{path}: refused: not a file of plain tensors (it is broken, or holds objects that "
            "would run code on loading); save model.state_dict() instead of the model"
        ) from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:
        # torch.load and safetensors raise many types for a damaged file; all mean the same.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not readable as a checkpoint: {reason}") from None
    if isinstance(content, Unread):
        raise DataError(f"{path}: refused: {content}; save model.state_dict() instead of the model")
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, not a dict of tensors")
    try:
        return opened(content, origin=str(path), size=path.stat().st_size)
    except RecursionError:
        raise DataError(f"{path}: not a checkpoint: its content holds itself") from None


def refuse_other_than_tensors(state: Mapping[str, Any], *, origin: str) -> None:
    """Refuse weights that are none.

    Raises:
        DataError: an entry is not a tensor under a name; it says which.
    """
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            if isinstance(value, Unread):
                raise DataError(
                    f"{origin}: {key!r} was not read: {value}; save model.state_dict() instead of "
                    "the model"
                )
            raise DataError(
                f"{origin}: not a state dict: {str(key)[:80]!r} is a {type(value).__name__}, not a "
                "tensor under a name"
            )


def state_dict_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the model's tensors in a checkpoint: the dict itself, or its usual entry."""
    return entry_of(content)[1]


def load_weights(
    model: nn.Module, content: Mapping[str, Any], *, origin: str, entry: str | None = None
) -> None:
    """Load a checkpoint into a model, all or nothing.

    Entries and names as other programs write them are understood, see `foreign_weights`.

    Args:
        model: whose weights are replaced.
        content: of the checkpoint.
        origin: its name, for errors and the log.
        entry: key of the content, or first part of the names, under which the weights stand; None
            takes the usual one.

    Raises:
        DataError: keys or shapes differ; names the first of them. Or there is no such entry.
    """
    wanted = model.state_dict()
    averaged = averages(content)
    where, found, chosen = chosen_entry(content, entry, origin=origin)
    refuse_other_than_tensors(found, origin=origin)
    found, prefixes = fitted(found, wanted)
    said = [] if entry or not averaged else [f"the averaged weights {averaged} are not taken"]
    found, more = completed(found, wanted, origin=origin)
    said += more
    missing = [key for key in wanted if key not in found]
    extra = [key for key in found if key not in wanted]
    shapes = [
        f"{key} is {tuple(found[key].shape)} in the file, {tuple(wanted[key].shape)} in the model"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    problems = [f"{len(missing)} missing (first: {missing[0]})"] if missing else []
    problems += [f"{len(extra)} unknown (first: {extra[0]})"] if extra else []
    problems += shapes[:1]
    if problems:
        raise DataError(
            f"{origin}: not a checkpoint of this {type(model).__name__}: {'; '.join(problems)}"
        )
    kinds = [key for key in wanted if found[key].is_complex() and not wanted[key].is_complex()]
    if kinds:
        raise DataError(f"{origin}: {kinds[0]} holds complex numbers, the model real ones")
    try:
        model.load_state_dict(found)
    except RuntimeError as error:  # a tensor without storage, or in a layout that cannot be copied
        raise DataError(f"{origin}: {str(error).splitlines()[-1].strip()}") from None
    say_what_was_taken_off(where, prefixes, origin=origin, said=[*chosen, *said])


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """12 hex digits that identify the weights, whatever file they are in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
