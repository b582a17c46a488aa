"""The flows that a policy becomes.  Pure: knows nothing of switches, sockets or clocks."""
