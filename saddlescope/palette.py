"""One colour, marker, line and hatch for each method, the same in every figure.

Colours are Okabe and Ito's, distinguishable with the common colour-vision deficiencies; markers,
dashes and hatches repeat the distinction for print in grey. The style sheet beside this file
holds everything else that figures share.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

STYLE_SHEET: Final = "saddlescope.mplstyle"


@dataclass(frozen=True)
class MethodStyle:
    """How a method is drawn.

    Attributes:
        color: On white.
        dark: The same hue for a dark page.
        marker: matplotlib marker.
        dashes: matplotlib line style.
        hatch: Fill pattern of bars.
    """

    color: str
    dark: str
    marker: str
    dashes: Any
    hatch: str


METHOD_STYLES: Final[dict[str, MethodStyle]] = {
    "sgd": MethodStyle("#4a4a4a", "#c4c4c4", "o", "-", ""),
    "sam": MethodStyle("#0072b2", "#58b0e6", "s", (0, (5, 1.5)), "///"),
    "imbsam": MethodStyle("#e69f00", "#f0b840", "^", (0, (1.2, 1.2)), ".."),
    "sam-ext": MethodStyle("#cc79a7", "#e3a0c4", "D", (0, (5, 1.5, 1.2, 1.5)), "xxx"),
    "sse-sam": MethodStyle("#d55e00", "#ff8a3d", "v", "-", "\\\\\\"),
}
"""Method key to its style."""

OTHER: Final = MethodStyle("#009e73", "#35c79b", "P", (0, (3, 1.5)), "++")
"""Every method that the paper does not have."""

INK: Final = {
    "#1b1c1e": "#e9e9e6",
    "#6b7075": "#9aa0a6",
    "#dcdfe2": "#3a3d41",
}
"""The colours of text, axes and grid in the style sheet, and what they become on dark."""


def method_style(method: str) -> MethodStyle:
    """Return the style of a method."""
    return METHOD_STYLES.get(method, OTHER)


@contextmanager
def house_style() -> Iterator[None]:
    """Apply the style sheet on top of matplotlib's defaults, and restore what was there."""
    import matplotlib.style  # only where something is drawn

    sheet = resources.files("saddlescope") / STYLE_SHEET
    with resources.as_file(sheet) as path, matplotlib.style.context(["default", str(path)]):
        yield


def use_house_style() -> None:
    """Apply the style sheet for good, as a notebook wants it."""
    import matplotlib

    with house_style():
        settings = dict(matplotlib.rcParams)
    settings.pop("backend", None)  # the caller's business
    # Reports keep it off, because run names may hold anything; here labels are the caller's own.
    settings["text.parse_math"] = True
    matplotlib.rcParams.update(settings)
    if "ipykernel" in sys.modules:
        from matplotlib import pyplot

        # A kernel draws what is no figure of pyplot's only once pyplot has loaded its backend.
        pyplot.switch_backend(matplotlib.get_backend())
