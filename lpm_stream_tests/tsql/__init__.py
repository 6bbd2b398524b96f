"""T-SQL executed by PostgreSQL: what is written for SQL Server is run by a real database where there is none."""
