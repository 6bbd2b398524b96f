"""Who did what when: append-only, which the database sees to itself."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_REFUSAL = "the audit is append-only"

# REPLACE deletes without firing a trigger for it, so what is inserted has to be the next one.
_SQLITE = (
    f"""CREATE TRIGGER audit_insert BEFORE INSERT ON audit
        WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM audit)
        BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END""",
    f"CREATE TRIGGER audit_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END",
    f"CREATE TRIGGER audit_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END",
)
_POSTGRESQL = (
    f"""CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$""",
    """CREATE TRIGGER audit_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
        FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()""",
)


def upgrade() -> None:
    """Adds it."""
    op.create_table(
        "audit",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("who", sa.Unicode(length=400), nullable=False),
        sa.Column("action", sa.String(length=63), nullable=False),
        sa.Column("company", sa.Unicode(length=450), nullable=True),
        sa.Column("details", sa.UnicodeText(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("ix_audit_company", "audit", ["company"], unique=False)
    for statement in _POSTGRESQL if op.get_bind().dialect.name == "postgresql" else _SQLITE:
        op.execute(statement)


def downgrade() -> None:
    """Removes it."""
    op.drop_table("audit")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_refuse()")
