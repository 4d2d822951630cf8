"""Say on stderr what `saddlescope spectrum --with` does."""

from typing import TYPE_CHECKING, Any

from saddlescope.cli.console import say

if TYPE_CHECKING:
    from saddlescope.measurement import SpectrumJob


def say_view(row: dict[str, Any], view: str, reused: bool) -> None:
    """One line for a view that need not be computed."""
    if reused:
        say(f"{row['kind']} {row['name']}: {view} already there")


def say_views_saved(job: "SpectrumJob") -> None:
    """Where the views are, and what was left out of them and why."""
    from saddlescope.runs import read_view, view_file, views_folder

    if not job.views or job.path is None:
        return
    if "bootstrap" in job.views:
        for record in read_view(view_file(job.path, "bootstrap")):
            if record["skipped"]:
                say(f"bootstrap skipped: {record['skipped']}")
    say(f"views: {views_folder(job.path)}: {', '.join(job.views)}")


def say_view_costs(job: "SpectrumJob") -> None:
    """Say what each view will cost a row."""
    from saddlescope.measurement import VIEWS

    for view in job.views:
        cost = VIEWS[view].gradients(job.settings.views, job.settings.typical_products)
        say(f"with {view}: about {cost:.0f} gradients a row")
        if VIEWS[view].once:
            say(f"with {view}: and about {VIEWS[view].once:.0f} gradients of all samples, once")
