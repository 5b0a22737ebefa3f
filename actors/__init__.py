"""Living: the pure session core, the session actors, their supervision and registry."""
