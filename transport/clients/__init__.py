"""The wires to clients."""
