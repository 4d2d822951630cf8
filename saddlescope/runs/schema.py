"""The words used on disk: method and loss keys, metric columns, spectrum columns.

One word for one thing: these names are the columns of the files, the fields of the rows in
code, the options of the command line and the words of the documentation.
"""

from typing import Final

METHODS: Final[dict[str, str]] = {
    "sgd": "SGD",
    "sam": "SAM",
    "imbsam": "ImbSAM",
    "sam-ext": "SAM (ext.)",
    "sse-sam": "SSE-SAM",
}
"""Method key to the name the paper prints, in the paper's order."""

LOSSES: Final[dict[str, str]] = {
    "ce": "CE",
    "ldam": "LDAM",
    "la": "LA",
    "vs": "VS",
}
"""Loss key to the name the paper prints."""

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
    "seconds",
    "images_per_s",
)
"""One row of `metrics.jsonl` an epoch. Accuracies are test accuracies in [0, 1]; `stage` is 1
or 2 (only SSE-SAM reaches 2); losses are means over the training samples seen in the epoch."""

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
    "epoch",
    "checkpoint",
    "seed",
    "dtype",
    "device",
    "digest",
    "settings",
)
"""One row a class or group: kind is "group" or "class", name "all", "head", … or the class
number. `digest` identifies the checkpoint's content and `settings` the options of the run;
with split, kind, name, criterion, seed and dtype they key a row for restart."""

SPECTRUM_KEY: Final[tuple[str, ...]] = (
    "digest",
    "split",
    "kind",
    "name",
    "criterion",
    "seed",
    "dtype",
    "settings",
)
