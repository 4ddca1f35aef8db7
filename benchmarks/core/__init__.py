"""What the core achieves, what it costs, and how it compares: `make bench`."""
