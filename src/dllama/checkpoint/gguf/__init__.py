"""A GGUF file: its metadata as a config, and its tensors."""
