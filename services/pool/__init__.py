"""The pool: which jobs there are, which worker runs what, and what becomes of it."""
