"""A small convolutional net for handwritten digits, trained in seconds when it is loaded."""
