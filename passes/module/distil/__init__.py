"""Distillation: a smaller student learns to answer like its teacher."""
