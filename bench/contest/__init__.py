"""The parts of bench/peers.py: models, how each candidate is built, how it is run, and how results are published."""
