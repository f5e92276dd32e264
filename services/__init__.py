"""What is allowed, and the processes that ask."""
