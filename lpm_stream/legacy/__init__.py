"""Legacy flat files, and the comparison of what they carry with what was streamed.

It reads the files and compares them in DuckDB, which only the extra `audit` installs, and reaches `sftp://` with
what the extra `sftp` installs; only what needs this package imports it.
"""
