"""The words used on disk: loss keys, metric columns, spectrum columns.

One word for one thing: these names are the columns of the files, the fields of the rows in
code, the options of the command line and the words of the documentation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

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

OperatorName = Literal[
    "hessian", "weingarten", "gauss-newton", "hessian-minus-gauss-newton", "norm-weighted"
]

OPERATORS: Final[dict[OperatorName, str]] = {
    "hessian": "∇²L",
    "weingarten": "C·∇²L·C/α",
    "gauss-newton": "G",
    "hessian-minus-gauss-newton": "∇²L − G",
    "norm-weighted": "D·∇²L·D",
}
"""Operator key to the matrix it stands for; see `saddlescope.curvature.build_operator`."""

METRIC_COLUMNS: Final[tuple[str, ...]] = (
    "epoch", "stage", "lr", "train_loss", "loss_head", "loss_tail", "acc_many", "acc_medium",
    "acc_few", "acc_avg", "acc_per_class", "acc_many_flip", "acc_medium_flip", "acc_few_flip",
    "acc_avg_flip", "seconds", "images_per_s",
)  # fmt: skip
"""One row of `metrics.jsonl` an epoch. Accuracies are test accuracies in [0, 1]; `stage` is 1
or 2 (only SSE-SAM reaches 2); losses are means over the training samples seen in the epoch."""

LOSS_COLUMNS: Final[tuple[str, ...]] = (
    "epoch", "loss", "loss_head", "loss_tail", "loss_head_sum", "loss_tail_sum",
)  # fmt: skip
"""One row of `losses.jsonl` a logged epoch: of all training images at fixed weights, in eval mode
and without augmentation; means, and the sums of head and tail that Eq. 8 compares."""

NORM_COLUMNS: Final[tuple[str, ...]] = (
    "epoch", "step", "batch", "batch_tail", "gradient_norm", "gradient_norm_head",
    "gradient_norm_tail", "q", "cos_head_tail", "cos_head", "cos_tail", "signal_head",
    "signal_tail",
)  # fmt: skip
"""One row of `norms.jsonl` a logged step: what Propositions 3 and 4 assume, on its batch."""

_KINDS: Final = {"str": str, "int": int, "flag": bool, "list": list}


@dataclass(frozen=True)
class Columns:
    """Columns of a file that are explained together.

    Attributes:
        types: what each holds: str, int (or None), bool, float, or list: (nested) lists of numbers.
        meaning: for the documentation, in Markdown.
    """

    types: Mapping[str, type]
    meaning: str


def columns(names: str, meaning: str = "") -> Columns:
    """Read "name:kind" words; without a kind a column holds floats."""
    pairs = (word.partition(":") for word in names.split())
    return Columns({name: _KINDS.get(kind, float) for name, _, kind in pairs}, meaning)


SPECTRUM_COLUMNS: Final[Mapping[str, type]] = columns(
    "name:str kind:str n:int lambda_max lambda_max_lower lambda_max_upper lambda_max_residual "
    "lambda_min lambda_min_lower lambda_min_upper lambda_min_residual lambda_ratio "
    "lambda_ratio_lower lambda_ratio_upper confidence gradient_norm loss matvecs:int gradient_cost "
    "noise stop_rule:str converged:flag verdict:str run:str method:str split:str criterion:str "
    "operator:str parameters:str weight_decay epoch:int checkpoint:str seed:int dtype:str "
    "device:str digest:str settings:str"
).types
"""One row a class or group: kind is "group" or "class", name "all", "head", … or the class
number. `operator`, `parameters` and `weight_decay` say which matrix, `digest` identifies the
checkpoint's content, of a network from elsewhere also its samples, and `settings` the options of
the run; with split, kind, name, criterion, seed and dtype they key a row for restart."""

SPECTRUM_KEY: Final[tuple[str, ...]] = (
    "digest", "split", "kind", "name", "criterion", "operator", "parameters", "weight_decay",
    "seed", "dtype", "settings",
)  # fmt: skip

VIEW_IDENTITY: Final[Mapping[str, type]] = {
    name: SPECTRUM_COLUMNS[name]
    for name in (
        "kind", "name", "n", "run", "method", "split", "criterion", "operator", "parameters",
        "weight_decay", "epoch", "checkpoint", "seed", "dtype", "device", "digest", "settings",
        "gradient_cost",
    )
}  # fmt: skip
"""What every record of a view says of itself. All but `settings` and `gradient_cost`, which are
the view's own, mean what they mean in a spectrum table; `SPECTRUM_KEY` keys a record too."""

VIEW_COLUMNS: Final[dict[str, tuple[Columns, ...]]] = {
    "density": (
        columns(
            "steps:int probes:int size:int matvecs:int",
            "Lanczos steps asked for, random start vectors, n, products taken",
        ),
        columns(
            "nodes:list weights:list",
            "Gauss rules of stochastic Lanczos quadrature, shape (probes, steps): Σ weight·f(node) "
            "estimates tr f(A)/n; each probe's weights sum to 1",
        ),
        columns(
            "sigma grid:list density:list density_spread:list",
            "the rules with each node widened to a Gaussian of standard deviation `sigma` (1 % of "
            "the range): mean and standard deviation over probes",
        ),
    ),
    "trace": (
        columns(
            "trace trace_error probes:int matvecs:int",
            "Hutchinson's estimate and its standard error; for an interval take Student's t with "
            "`probes` − 1 degrees of freedom, as `ProbeEstimate.interval` does",
        ),
    ),
    "eigenvalues": (
        columns(
            "end:str rank:int eigenvalue eigenvalue_lower eigenvalue_upper residual confidence",
            "the `--k` outermost at the `max` and `min` end, from the end inwards, repeated ones "
            "as often as they are there; with `confidence` all intervals of an end hold together, "
            "the outer side infinite where products ran out first; some eigenvalue lies within "
            "`residual`",
        ),
        columns("matvecs:int converged:flag", "of the whole end, as its `gradient_cost`"),
    ),
    "kato-temple": (
        columns("end:str", '"max" or "min"'),
        columns(
            "value residual",
            "ρ = ⟨y, A·y⟩ of the end's vector and ‖A·y − ρ·y‖, from a product of its own",
        ),
        columns(
            "gap",
            "from ρ to the nearest place where another eigenvalue may be, at least; 0 where none "
            "could be certified",
        ),
        columns(
            "temple_lower temple_upper",
            "ρ ∓ ‖r‖²/gap on the outer side, ρ on the other, both widened by the row's noise; "
            "infinite without a gap. [Kato-Temple](../concepts/bounds.md)",
        ),
        columns("confidence matvecs:int", "of the gap; products of the second run"),
    ),
    "eigenvectors": (
        columns(
            "file:str",
            "v_max and v_min of the row, path within the folder: `vectors` (2, n), `values` (2,), "
            "`residuals` (2,); the header has the row's words. n runs over the parameters in the "
            "order of `named_parameters()`. `gradient_cost` is 0: they come out of the row's own "
            "iteration (which is repeated where the row was measured without them)",
        ),
        columns(
            "lambda_max lambda_max_residual lambda_min lambda_min_residual converged:flag",
            "of the row",
        ),
    ),
    "slices": (
        columns("direction:str", "`v_max` or `v_min`"),
        columns(
            "eigenvalue eigenvalue_lower eigenvalue_upper",
            "λ of that direction with its interval",
        ),
        columns(
            "measured measured_error measured_step loss_noise",
            "the second difference of the loss along v in float64, by forward passes alone: value, "
            "estimated error, step, rounding of the loss",
        ),
        columns("agrees:flag", "whether `measured` ± `measured_error` meets the interval"),
        columns("converged:flag", "of the row"),
        columns("radii:list losses:list", "a, and L(w + a·v), v being the direction"),
    ),
    "plane": (
        columns("lambda_max lambda_min converged:flag", "of the row"),
        columns(
            "v_max_radii:list v_min_radii:list losses:list",
            "L(w + a·v_max + b·v_min), shape (a, b)",
        ),
    ),
    "alignments": (
        columns("vector:str", "`gradient` (∇L of the row) or the method whose update it is"),
        columns("stage:int", "1, or 2 for SSE-SAM after its switch; empty for the gradient"),
        columns("rho:str", "radii by group"),
        columns("norm", "length; of an update, for step size 1"),
        columns(
            "cos_v_max cos_v_min",
            "cosine with v_max and v_min. Times `norm` it is ⟨v, ∇L⟩ or ⟨v, update⟩. Each v is "
            "turned so that its cosine with the gradient is not negative",
        ),
        columns(
            "update_cost",
            "gradients of *all* samples that the update took, once a job; `gradient_cost` is the "
            "row's gradient",
        ),
        columns("converged:flag", "of the row"),
    ),
    "split": (
        columns(
            "direction:str",
            "a unit vector v, turned downhill: `v_max`, `v_min` or `gradient` (−∇L/‖∇L‖)",
        ),
        columns("hessian gauss_newton remainder", "vᵀHv, vᵀGv and vᵀRv with H = G + R, in float64"),
        columns("cos_gradient", "cosine of v and −∇L"),
        columns("gradient_loss_ratio loss", "‖∇L‖²/L and L of the row, in float64"),
        columns(
            "below gradient_below gradient_below_lower gradient_below_upper",
            "−0.01·λ_max, and the share of ‖∇L‖² on eigenvalues below it, by `--steps` Lanczos "
            "steps from ∇L; the bounds are rigorous (Chebyshev-Markov-Stieltjes) up to rounding",
        ),
        columns("converged:flag", "of the row"),
        columns(
            "distances:list curvatures:list", "s, and (L(w+sv) − 2L(w) + L(w−sv))/s² in float64"
        ),
        columns("losses_ahead:list losses_behind:list", "L(w+sv), L(w−sv)"),
    ),
    "bootstrap": (
        *(
            columns(
                f"{name} {name}_bootstrap_lower {name}_bootstrap_upper {name}_bootstrap_bias",
                "of the row; percentile interval over samples drawn again, within their classes, "
                "at `bootstrap_level`; mean over resamples minus the row's value",
            )
            for name in ("lambda_max", "lambda_min")
        ),
        columns(
            "lambda_ratio lambda_ratio_bootstrap_lower lambda_ratio_bootstrap_upper", "the same"
        ),
        columns(
            "bootstrap_level bootstrap_resamples:int bootstrap_unconverged:int "
            "bootstrap_matvecs:int bootstrap_seed:int",
            "how",
        ),
        columns("skipped:str", "why there is none (a class of one sample); else empty"),
    ),
}
"""View to the columns it has beside `VIEW_IDENTITY`, in the order of computation."""
