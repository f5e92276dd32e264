"""What a machine of the pool does: takes orders, runs tasks, reports what became of them."""
