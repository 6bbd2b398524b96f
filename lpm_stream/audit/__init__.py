"""The audit: are the company databases what the Delta table says they should be? Shares no code with delivery.

Both sides are read once, brought to one canonical form, and divided by the hash of the key into scratch files
small enough to be compared in memory, one after the other, by DuckDB. So memory stays bounded however large the
table is, and rows with the same key always meet, in whichever database they are. Databases are only read.

It imports DuckDB, which only the extra `audit` installs; only the command that needs it imports this package.
"""
