"""Who is who: users, roles, keys, invitations, enrolments and the identities of workers. One writer for all of it."""
