"""How a batch is linearised, and what a product with its matrix costs."""

from saddlescope.curvature.products.batch_products import BatchProducts
from saddlescope.curvature.products.linearisations import (
    DoubleBackward,
    Lineariser,
    differentiable_loss,
    pull_back,
)
from saddlescope.curvature.products.replay import CudaGraphs, Recorder
from saddlescope.curvature.products.strategy import (
    TYPICAL_PRODUCTS,
    Programs,
    Strategy,
    branches_count,
    checked_samples,
)
