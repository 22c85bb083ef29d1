"""dllama: several ordinary computers work as one machine that runs a large language model."""

__version__ = "0.1.0"
