"""The keeper: the process that owns a worker's running tasks and what they print, so that its agent may come and go."""
