"""The ledger's tables, and the steps that bring a database of an older version up to date.

`attempts` is what happened; `spending` is its sum by account and day, which budgets are held against. Whoever changes
one changes the other in the same transaction.
"""

from collections.abc import Sequence

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    insert,
    inspect,
    select,
    text,
    update,
)

from small4.errors import LedgerError

# SQLite counts rows by itself only in a column that is called INTEGER.
_ROW_ID = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()

attempts = Table(
    "attempts",
    metadata,
    Column("id", _ROW_ID, primary_key=True, autoincrement=True),
    Column("request_id", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("owner", BigInteger, nullable=False),  # the process that holds it
    Column("state", String, nullable=False),  # held, settled, released, recovered
    Column("key", String, nullable=False),
    Column("app", String, nullable=False),
    Column("route", String, nullable=False),
    Column("dialect", String, nullable=False),
    Column("model", String, nullable=False),
    Column("day", Integer, nullable=False),  # since 1970-01-01, UTC
    Column("began_us", BigInteger, nullable=False),  # microseconds since 1970-01-01, UTC
    Column("first_token_us", BigInteger),  # microseconds after the beginning, as is the next
    Column("duration_us", BigInteger),
    Column("prompt_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("is_estimate", Boolean, nullable=False),
    Column("held", BigInteger),  # money in units of 1e-12 dollars, as is the next; NULL is unknown
    Column("cost", BigInteger),
    Column("finish", String),
    Column("error_class", String),
    UniqueConstraint("request_id", "attempt"),
)
Index("attempts_by_day", attempts.c.day)
Index(
    "attempts_held",
    attempts.c.owner,
    sqlite_where=attempts.c.state == "held",
    postgresql_where=attempts.c.state == "held",
)

spending = Table(
    "spending",
    metadata,
    Column("scope", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("day", Integer, primary_key=True),
    Column("spent", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    CheckConstraint("spent >= 0 AND held >= 0"),
    sqlite_with_rowid=False,
)

version_table = Table("ledger_version", metadata, Column("version", Integer, nullable=False))

# Step i brings version i + 1 to version i + 2; the tables above are the newest. A released step stays as it is.
STEPS: tuple[Sequence[str], ...] = ()


def bring_up_to_date(connection: Connection, steps: Sequence[Sequence[str]]) -> None:
    """Make the tables, or change those of an older version; to be called within one transaction."""
    newest = len(steps) + 1
    if not inspect(connection).has_table(version_table.name):
        metadata.create_all(connection)
        connection.execute(insert(version_table).values(version=newest))
    version = connection.execute(select(version_table.c.version)).scalar_one()
    if version > newest:
        raise LedgerError(
            f"the ledger is of version {version}, and this small4 reads up to {newest}; "
            "install the newer small4 that wrote it, or name another ledger"
        )
    for step in steps[version - 1 :]:
        for statement in step:
            connection.execute(text(statement))
    if version < newest:
        connection.execute(update(version_table).values(version=newest))
