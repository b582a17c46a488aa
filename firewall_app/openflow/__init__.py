"""Everything between flows as values and a switch: bytes, sessions, the connection that Ryu gives us."""
