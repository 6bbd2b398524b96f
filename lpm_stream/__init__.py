"""Streams every change of a Delta table into the SQL database of the company it belongs to."""
