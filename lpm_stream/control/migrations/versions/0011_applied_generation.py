"""Up to which change of its entitlements a company's database is known to be."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Adds it; of companies that there are it is not known, so the next `apply` sees to them."""
    op.add_column(
        "companies", sa.Column("applied_generation", sa.BigInteger(), nullable=False, server_default="0")
    )


def downgrade() -> None:
    """Removes it."""
    op.drop_column("companies", "applied_generation")
