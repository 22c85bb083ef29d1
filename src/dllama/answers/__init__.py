"""The formats in which models write thoughts, answers and calls of tools, and what tells them apart as they come."""
