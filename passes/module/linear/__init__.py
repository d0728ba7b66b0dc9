"""Linear maps written in another way: merged, separated, or as the other kind of layer."""
