"""Passes that write canonical ops in the form that is fastest, or that is accepted at all, on one target."""
