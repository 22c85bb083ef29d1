"""A `.m` file: its header and its tensors."""
