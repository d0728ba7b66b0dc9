"""Choices by measurement: which precision to take, and which nodes of an int8 engine to keep in float.

`race` times engines in turns; `advise` measures every precision that makes sense; `search` finds the float nodes.
"""
