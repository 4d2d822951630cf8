"""A loss as a function of w over fixed samples: data, batches, forward pass, parameters, state."""

from saddlescope.curvature.objective.agreeing import criterion_told
from saddlescope.curvature.objective.batches import BatchLoss, map_tensors
from saddlescope.curvature.objective.counting import batch_weight, pair
from saddlescope.curvature.objective.displacement import displaced
from saddlescope.curvature.objective.explaining import (
    check_call,
    described,
    explain,
    first_line,
    torchs_words,
)
from saddlescope.curvature.objective.forward import Folding, call_model
from saddlescope.curvature.objective.grouping import Grouping, Groups
from saddlescope.curvature.objective.objective import (
    Batch,
    Criterion,
    Objective,
    ObjectiveOptions,
    WeightlessError,
)
from saddlescope.curvature.objective.parameters import (
    Choice,
    ParameterVector,
    as_patterns,
    call_with,
    select_parameters,
    strided,
)
from saddlescope.curvature.objective.samples import (
    SampleBatches,
    Samples,
    SharedSamples,
    TensorSamples,
    as_samples,
    batch_of,
    class_numbers,
    usual_batch_size,
)
from saddlescope.curvature.objective.sources import (
    FROZEN,
    FixedBatches,
    Randomness,
    Reading,
    SharedBatches,
)
from saddlescope.curvature.objective.state import (
    Tensors,
    exact_arithmetic,
    held_attributes,
    refuse_training_mode,
    tf32,
    uncompiled,
    untouched,
)
from saddlescope.curvature.objective.subsets import (
    Subset,
    count_samples,
    select_subsets,
    subset_indices,
)
from saddlescope.curvature.objective.telling import samples_checksum
