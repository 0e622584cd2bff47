"""The command line: main.py reads it, every other module is one command with `add` and `run`."""
