"""Passes that leave the same computation with fewer nodes. One file per pass."""
