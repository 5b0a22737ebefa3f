"""Carrying: the wires to clients and to upstreams, and the HTTP surface."""
