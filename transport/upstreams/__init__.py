"""The wires to upstream servers: implementations of `actors.link.Link`."""
