"""What `saddlescope spectrum --with` says of its views, on stderr."""

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
    """What each view will cost a row."""
    from saddlescope.measurement.view_plan import expected_gradients

    stop = job.settings.stop
    typical = min(stop.max_matvecs, 50 if stop.certify else 30)
    for view in job.views:
        cost = expected_gradients(view, job.view_options, products=typical)
        say(f"with {view}: about {cost:.0f} gradients a row")
    if "alignments" in job.views:
        say("with alignments: and about 7 gradients of all samples, once")
