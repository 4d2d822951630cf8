"""Is the loss one fixed function of w, and are torch's derivatives those of its values?"""

from saddlescope.curvature.checks.guard import check_derivatives
from saddlescope.curvature.checks.verifying import verify_few, verify_loss, verify_source
