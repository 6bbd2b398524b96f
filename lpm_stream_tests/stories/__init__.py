"""What an operator does in Dagster's UI, in a real browser on a running demo."""
