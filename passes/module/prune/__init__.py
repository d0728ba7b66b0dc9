"""Pruning: masks on single weights (`weights`, `n_m`), and physical removal (`channels`, `heads`)."""
