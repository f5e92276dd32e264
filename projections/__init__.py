"""What we can answer: pure folds of the log, and the rows that Postgres keeps of it."""
