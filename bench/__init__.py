"""Measurements of what is felt: `python -m bench`."""
