"""What is measured of saddlescope, and how; run from a clone, never installed."""
