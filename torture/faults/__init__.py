"""The faults, each a small function."""
