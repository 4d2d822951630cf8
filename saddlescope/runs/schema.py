"""The words used on disk: loss keys, metric columns, spectrum columns.

One word for one thing: these names are the columns of the files, the fields of the rows in
code, the options of the command line and the words of the documentation.
"""

from typing import Final

LOSSES: Final[dict[str, str]] = {
    "ce": "CE",
    "ldam": "LDAM",
    "la": "LA",
    "vs": "VS",
    "cb": "CB",
}
"""Loss key to the name the paper prints."""

CLASSIFIERS: Final[dict[str, str]] = {"crt": "cRT", "lws": "LWS", "tau-norm": "τ-norm"}
"""Second-stage key to the name the paper prints; see `saddlescope.training.decoupling`."""

OPERATORS: Final[dict[str, str]] = {
    "hessian": "∇²L",
    "weingarten": "C·∇²L·C/α",
    "gauss-newton": "G",
    "hessian-minus-gauss-newton": "∇²L − G",
    "norm-weighted": "D·∇²L·D",
}
"""Operator key to the matrix it stands for; see `saddlescope.curvature.build_operator`."""

METRIC_COLUMNS: Final[tuple[str, ...]] = (
    "epoch",
    "stage",
    "lr",
    "train_loss",
    "loss_head",
    "loss_tail",
    "acc_many",
    "acc_medium",
    "acc_few",
    "acc_avg",
    "acc_per_class",
    "acc_many_flip",
    "acc_medium_flip",
    "acc_few_flip",
    "acc_avg_flip",
    "seconds",
    "images_per_s",
)
"""One row of `metrics.jsonl` an epoch. Accuracies are test accuracies in [0, 1]; `stage` is 1
or 2 (only SSE-SAM reaches 2); losses are means over the training samples seen in the epoch."""

LOSS_COLUMNS: Final[tuple[str, ...]] = (
    "epoch",
    "loss",
    "loss_head",
    "loss_tail",
    "loss_head_sum",
    "loss_tail_sum",
)
"""One row of `losses.jsonl` a logged epoch: of all training images at fixed weights, in eval mode
and without augmentation; means, and the sums of head and tail that Eq. 8 compares."""

NORM_COLUMNS: Final[tuple[str, ...]] = (
    "epoch",
    "step",
    "batch_tail",
    "gradient_norm",
    "gradient_norm_head",
    "gradient_norm_tail",
    "q",
    "cos_head_tail",
    "cos_head",
    "cos_tail",
    "signal_head",
    "signal_tail",
)
"""One row of `norms.jsonl` a logged step: what Propositions 3 and 4 assume, on its batch."""

SPECTRUM_COLUMNS: Final[tuple[str, ...]] = (
    "name",
    "kind",
    "n",
    "lambda_max",
    "lambda_max_lower",
    "lambda_max_upper",
    "lambda_max_residual",
    "lambda_min",
    "lambda_min_lower",
    "lambda_min_upper",
    "lambda_min_residual",
    "lambda_ratio",
    "lambda_ratio_lower",
    "lambda_ratio_upper",
    "confidence",
    "gradient_norm",
    "loss",
    "matvecs",
    "gradient_cost",
    "noise",
    "stop_rule",
    "converged",
    "verdict",
    "run",
    "method",
    "split",
    "criterion",
    "operator",
    "parameters",
    "weight_decay",
    "epoch",
    "checkpoint",
    "seed",
    "dtype",
    "device",
    "digest",
    "settings",
)
"""One row a class or group: kind is "group" or "class", name "all", "head", … or the class
number. `operator`, `parameters` and `weight_decay` say which matrix, `digest` identifies the
checkpoint's content and `settings` the options of the run; with split, kind, name, criterion,
seed and dtype they key a row for restart."""

SPECTRUM_KEY: Final[tuple[str, ...]] = (
    "digest",
    "split",
    "kind",
    "name",
    "criterion",
    "operator",
    "parameters",
    "weight_decay",
    "seed",
    "dtype",
    "settings",
)

VIEW_IDENTITY: Final[tuple[str, ...]] = (
    "kind",
    "name",
    "n",
    "run",
    "method",
    "split",
    "criterion",
    "operator",
    "parameters",
    "weight_decay",
    "epoch",
    "checkpoint",
    "seed",
    "dtype",
    "device",
    "digest",
    "settings",
    "gradient_cost",
)
"""What every record of a view says of itself. All but `settings` and `gradient_cost`, which are
the view's own, mean what they mean in a spectrum table; `SPECTRUM_KEY` keys a record too."""

VIEW_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "density": (
        "steps",
        "probes",
        "size",
        "matvecs",
        "nodes",
        "weights",
        "sigma",
        "grid",
        "density",
        "density_spread",
    ),
    "trace": ("trace", "trace_error", "probes", "matvecs"),
    "eigenvalues": (
        "end",
        "rank",
        "eigenvalue",
        "eigenvalue_lower",
        "eigenvalue_upper",
        "residual",
        "confidence",
        "matvecs",
        "converged",
    ),
    "kato-temple": (
        "end",
        "value",
        "residual",
        "gap",
        "temple_lower",
        "temple_upper",
        "confidence",
        "matvecs",
    ),
    "eigenvectors": (
        "file",
        "lambda_max",
        "lambda_max_residual",
        "lambda_min",
        "lambda_min_residual",
        "converged",
    ),
    "slices": (
        "direction",
        "eigenvalue",
        "eigenvalue_lower",
        "eigenvalue_upper",
        "measured",
        "measured_error",
        "measured_step",
        "loss_noise",
        "agrees",
        "converged",
        "radii",
        "losses",
    ),
    "plane": ("lambda_max", "lambda_min", "converged", "v_max_radii", "v_min_radii", "losses"),
    "alignments": (
        "vector",
        "stage",
        "rho",
        "norm",
        "cos_v_max",
        "cos_v_min",
        "update_cost",
        "converged",
    ),
    "split": (
        "direction",
        "hessian",
        "gauss_newton",
        "remainder",
        "cos_gradient",
        "gradient_loss_ratio",
        "loss",
        "below",
        "gradient_below",
        "gradient_below_lower",
        "gradient_below_upper",
        "converged",
        "distances",
        "curvatures",
        "losses_ahead",
        "losses_behind",
    ),
    "bootstrap": (
        "lambda_max",
        "lambda_max_bootstrap_lower",
        "lambda_max_bootstrap_upper",
        "lambda_max_bootstrap_bias",
        "lambda_min",
        "lambda_min_bootstrap_lower",
        "lambda_min_bootstrap_upper",
        "lambda_min_bootstrap_bias",
        "lambda_ratio",
        "lambda_ratio_bootstrap_lower",
        "lambda_ratio_bootstrap_upper",
        "bootstrap_level",
        "bootstrap_resamples",
        "bootstrap_unconverged",
        "bootstrap_matvecs",
        "bootstrap_seed",
        "skipped",
    ),
}
"""View to the columns it has beside `VIEW_IDENTITY`."""

ARRAY_COLUMNS: Final[frozenset[str]] = frozenset(
    {
        "nodes", "weights", "grid", "density", "density_spread",
        "radii", "losses", "v_max_radii", "v_min_radii",
        "distances", "curvatures", "losses_ahead", "losses_behind",
    }
)  # fmt: skip
"""Columns that hold (nested) lists of numbers. A view that has one is kept as JSON, else as CSV."""
