"""Predict what a row will take, before it is measured."""

from saddlescope.curvature.forecast.planning import Footprint, MemoryPlan, measure_footprint
