"""The loss itself along directions, and what an eigenvalue is made of."""

from saddlescope.curvature.landscape.second_difference import measured_curvature
from saddlescope.curvature.landscape.slices import alignment, alignments, loss_plane, loss_slice
from saddlescope.curvature.landscape.splitting import CurvatureSplit, split_curvature
