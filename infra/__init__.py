"""How Hive reaches the world: folders, settings, nats-server, the log on JetStream, Postgres, blobs, keys."""
