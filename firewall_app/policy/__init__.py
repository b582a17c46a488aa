"""What people want (`model`), what it means (`decide`), whom a change concerns (`policy`).  Pure: no I/O, no clock."""
