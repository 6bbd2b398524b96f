"""verify: an audit of the company databases against the source table."""
