"""`python -m dllama`."""

from dllama.cli.main import run

run()
