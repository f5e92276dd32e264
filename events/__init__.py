"""What can happen: the catalogue of events, the records that carry them, and the port to the log. Pure."""
