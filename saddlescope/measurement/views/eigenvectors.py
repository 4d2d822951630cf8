"""v_max and v_min, each row's in a file of its own."""

from saddlescope.curvature import derived_seed, save_eigenvectors
from saddlescope.measurement.views.row_work import RowWork
from saddlescope.measurement.views.view import Records, View


def _compute(work: RowWork) -> Records:
    row = work.measured
    assert work.folder is not None
    words = {**work.target.identity, **work.settings.key(), "settings": work.settings.column()}
    words |= {"kind": row.kind, "name": row.name, "n": row.n, "seed": row.seed}
    words |= {"dtype": row.dtype, "device": row.device, "converged": row.converged}
    words["epoch"] = "" if words["epoch"] is None else words["epoch"]
    plain = "".join(c if c.isalnum() or c in "._" else "_" for c in row.name)
    mark = derived_seed(0, *(f"{key}={words[key]}" for key in sorted(words)))
    file = f"eigenvectors/{row.kind}-{plain}-{mark:08x}.safetensors"
    save_eigenvectors(work.folder / file, row.ends, metadata=words)
    record = {column: getattr(row, column) for column in ("lambda_max", "lambda_min", "converged")}
    record |= {
        f"{end}_residual": getattr(row, f"{end}_residual") for end in ("lambda_max", "lambda_min")
    }
    return [record | {"file": file, "gradient_cost": 0.0}]


VIEW = View(
    compute=_compute,
    settings=lambda row, _rule: row.column(),
    gradients=lambda _options, _products: 0.0,
    from_row=True,
)
