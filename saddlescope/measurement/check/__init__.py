"""The instrument held to independent tools, on anybody's own small problem."""

from saddlescope.measurement.check.agreement import CheckRow, contradictions
from saddlescope.measurement.check.checking import check_target, smallest_class
