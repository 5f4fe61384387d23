"""The command-line programs, one module per command: parse the arguments, call one stage, print its results."""
