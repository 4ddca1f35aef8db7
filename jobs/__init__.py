"""What a job is: its states, its record, its lease, its events, its artifacts."""
