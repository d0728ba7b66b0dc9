"""Passes that recognize what exporters take apart, and write it as one standard op. One file per pass."""
