"""Checks: whether each company's table has all that it should, in time, in one answer per check and company.

What they need to know of legacy files and of the source table's rows is read with DuckDB, which only the extra
`audit` installs; the other checks do without.
"""
