"""The service under load, on loopback: `make load`."""
