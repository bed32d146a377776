"""The command line: parse, call one stage, show progress, print a summary."""
