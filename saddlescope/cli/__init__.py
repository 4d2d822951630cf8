"""The `saddlescope` command: parses, calls, prints. Torch is imported by the commands, not here."""
