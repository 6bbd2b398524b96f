"""The declared contract of a feed: its spec, its schema, and the check of rows against it."""
