"""Clients that others wrote, run against the real program over real sockets."""
