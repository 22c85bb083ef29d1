"""What the operating system of this computer does for the program."""
