"""`python -m dllama`."""

from dllama.cli.start import run

run()
