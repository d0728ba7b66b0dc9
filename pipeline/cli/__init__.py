"""The command line: one file per command, loaded when it is called.

A command is thin: it turns options into values, calls the library and shows what came back. `group.py` turns the
library's errors into messages and exit codes, in that one place.
"""
