"""How a task runs on this machine: one executor a kind, behind the small interface in `base`."""
