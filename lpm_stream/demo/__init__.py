"""The demo: the main job on the embedded parts, with simulated traffic, under Dagster."""
