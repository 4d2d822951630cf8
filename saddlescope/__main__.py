"""`python -m saddlescope`."""

from saddlescope.cli.main import run

run()
