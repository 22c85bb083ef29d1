"""The command line: parses, prints, and puts everything together."""
