"""Weight sharing: few distinct values per tensor, and equal tensors stored once."""
