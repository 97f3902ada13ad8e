"""The command line: `main` has the verbs of a run, every other file a verb or group of verbs of its own."""

from rlaif.cli.main import app, main

__all__ = ["app", "main"]
