"""What Dagster loads: one folder per feed."""
