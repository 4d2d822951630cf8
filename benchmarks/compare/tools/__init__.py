"""The tools compared: this one and the three that people use."""

from importlib.util import find_spec

from benchmarks.compare.tools.base import Answer, Setting, Tool, label
from benchmarks.compare.tools.curvlinops import Curvlinops
from benchmarks.compare.tools.eigenthings import Eigenthings
from benchmarks.compare.tools.instrument import Instrument
from benchmarks.compare.tools.power import PowerIteration, Shifted

TOOLS: dict[str, Tool] = {
    tool.key: tool
    for tool in (
        Instrument(),
        Instrument(bare=True),
        Eigenthings("autograd"),
        Eigenthings("finite_difference"),
        Curvlinops(),
        Shifted(),
        PowerIteration(),
    )
}
"""By key; the first is ours."""

STREAMED = Instrument(streamed=True)
"""Beside the others where memory is the question."""

_MODULES = {"hessian-eigenthings": "hessian_eigenthings", "curvlinops-for-pytorch": "curvlinops"}


def installed(tool: Tool) -> bool:
    """Whether its package can be imported here."""
    return find_spec(_MODULES.get(tool.package, tool.package)) is not None


__all__ = ["STREAMED", "TOOLS", "Answer", "Instrument", "Setting", "Tool", "installed", "label"]
