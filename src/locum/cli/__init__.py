"""``locum``: one file per command. :mod:`locum.cli.main` finds the command and imports nothing else."""
