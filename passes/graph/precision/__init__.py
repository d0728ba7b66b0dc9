"""Passes that change the precision in which a graph computes. One file per pass."""
