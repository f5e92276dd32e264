"""The ledger: who has how much, what a job costs, and what a worker's owner earns."""
