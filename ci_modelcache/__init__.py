"""AI model snapshots, content-addressed in object storage, restored and verified."""
