"""Choices by measurement: which target and precision to take, and which nodes of an int8 engine to keep in float.

`race` times engines in turns; `auto` builds the winner among targets and precisions; `advise` measures every precision
of one target; `search` finds the float nodes.
"""
