"""`python -m vesselflow`."""

from vesselflow.cli.main import command

command()
