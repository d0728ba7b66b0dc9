"""Low rank: one weight becomes the product of two thin ones."""
