"""Keeping: records, codec, stores, and the writer that commits them. Imports nothing of ours."""
