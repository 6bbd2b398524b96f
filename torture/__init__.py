"""The fault suite: everything that may happen to real processes and files, and what became of the rows."""
