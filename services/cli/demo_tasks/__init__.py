"""Programs that the demo's tasks run: plain scripts, given to the workers as input blobs."""
