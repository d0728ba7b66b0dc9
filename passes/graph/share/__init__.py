"""Passes that store weights in fewer bytes and let the runtime look them up."""
