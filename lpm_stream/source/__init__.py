"""The source table: its changes, its snapshots, and a simulator that keeps it busy."""
