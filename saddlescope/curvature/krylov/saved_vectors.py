"""Eigenvectors on disk, as safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from saddlescope.curvature.krylov.eigenpairs import Eigenpairs
from saddlescope.curvature.krylov.extreme import Ends
from saddlescope.errors import UsageError
from saddlescope.runs import write_bytes


def save_eigenvectors(
    path: str | Path, found: Ends | Eigenpairs, *, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write eigenvectors, eigenvalues and residuals as safetensors, atomically.

    The file holds `vectors` (k, n), `values` (k,) and `residuals` (k,); of `Ends` the rows are
    v_max and v_min. Read it with `safetensors.torch.load_file`. Equal content gives equal bytes.

    Args:
        path: of the file.
        found: `Ends` measured with `eigenvectors=True`, or `Eigenpairs`.
        metadata: kept as text in the file's header; the row names are added as `rows`.

    Raises:
        UsageError: `Ends` without eigenvectors.
    """
    if isinstance(found, Ends):
        if found.eigenvectors is None:
            raise UsageError("no eigenvectors to save: measure with eigenvectors=True")
        both = (found.lambda_max, found.lambda_min)
        vectors, rows = found.eigenvectors, "v_max v_min"
        values, residuals = [e.value for e in both], [e.residual for e in both]
    else:
        vectors, rows = found.vectors, f"{len(found.values)} from {found.end} inwards"
        values, residuals = found.values.tolist(), found.residuals.tolist()
    tensors = {
        "vectors": vectors.detach().cpu().contiguous(),
        "values": torch.tensor(values, dtype=torch.float64),
        "residuals": torch.tensor(residuals, dtype=torch.float64),
    }
    header = {key: str(value) for key, value in {**(metadata or {}), "rows": rows}.items()}
    write_bytes(path, _in_order(save(tensors, metadata=header)))


def _in_order(content: bytes) -> bytes:
    """The same safetensors file with its header sorted: it comes in another order each time."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)  # the tensors that follow stay aligned
    return len(header).to_bytes(8, "little") + header + content[end:]
