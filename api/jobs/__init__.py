"""Jobs over HTTP: the job itself, its events, its logs, its artifacts."""
