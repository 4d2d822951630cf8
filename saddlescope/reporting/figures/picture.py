"""A kind of figure: a drawing made from a selection, and the words that go with it.

A new figure is one `Picture`, beside the function that draws it, and its name in the list of
`saddlescope.reporting.figures`: the command, the gallery and the report take it from there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure

from saddlescope.palette import house_style
from saddlescope.reporting.figures.canvas import add_note, empty_figure
from saddlescope.reporting.selection import Selection


@dataclass(frozen=True)
class Drawing:
    """A figure that has been drawn.

    Attributes:
        figure: Without a note.
        note: What the numbers are (split, n, confidence, seeds), for a figure that travels alone;
            may be empty.
    """

    figure: Figure
    note: str


Section = Literal["ratio", "classes", "around", "theory", "training"]
"""A section of the report."""

Draw = Callable[[Selection], Drawing | str]
"""Draws, or says in a sentence why there is nothing to draw."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A kind of figure. Called with a selection it gives the figure.

    Attributes:
        name: What the command calls it, and the stem of its files.
        draw: Under the style sheet.
        caption: One or two sentences: what is drawn.
        needs: What the runs must hold.
        narrow: The same for a narrow page, where the figure would not fit.
        section: Where the report shows it; None leaves it out.
        without_runs: Whether there is something to draw without runs.
    """

    name: str
    draw: Draw
    caption: str
    needs: str
    narrow: Draw | None = None
    section: Section | None = None
    without_runs: bool = False

    def __call__(self, chosen: Selection, *, note: bool = True, narrow: bool = False) -> Figure:
        """Draw the figure; without its data, one that says what is missing.

        Args:
            chosen: The runs.
            note: Write at the foot what the numbers are.
            narrow: For a narrow page, where there is such a form.
        """
        draw = self.narrow if narrow and self.narrow else self.draw
        with house_style():
            drawn = draw(chosen)
            if isinstance(drawn, str):
                return empty_figure(drawn)
            if note and drawn.note:
                add_note(drawn.figure, drawn.note)
            return drawn.figure
