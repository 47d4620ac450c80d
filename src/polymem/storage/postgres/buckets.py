"""Rate limit buckets that all processes share: one statement for each draw, on a table that is not logged."""

from datetime import datetime, timedelta
from typing import Final

from psycopg import errors

from polymem.domain.limits import BUCKET_CLOCKS_APART, BucketRule
from polymem.errors import StorageDamaged, StorageReadOnly
from polymem.ports.limits import Drawn
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.driver import Connection
from polymem.storage.rows import microseconds

# The same as `polymem.domain.limits.drawn`. The row is locked before its columns are read, so that of two draws at once
# the second one reads what the first has left.
_DRAW: Final = """
INSERT INTO buckets AS b (name, tokens, at, granted, full_at)
SELECT %(name)s, %(capacity)s - given, %(now)s, given, %(now)s + ceil(given / %(rate)s * 1e6)::bigint
FROM (SELECT least(%(wanted)s::integer, floor(%(capacity)s)::integer) AS given) AS new
ON CONFLICT (name) DO UPDATE SET (tokens, at, granted, full_at) = (
  SELECT present - given, since, given, since + ceil((%(capacity)s - present + given) / %(rate)s * 1e6)::bigint
  FROM (
    SELECT
      present,
      least(%(wanted)s::integer, floor(present)::integer) AS given,
      CASE WHEN b.at - %(now)s > %(apart)s THEN %(now)s ELSE greatest(b.at, %(now)s) END AS since
    FROM (
      SELECT least(
        %(capacity)s, b.tokens + greatest(0, %(now)s - b.at) / 1e6::double precision * %(rate)s + %(unused)s
      ) AS present
    ) AS refilled
  ) AS drawn
)
RETURNING granted, tokens
"""


class PostgresBuckets:
    """Buckets as rows; a crash of the database makes them full again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def draw(self, name: str, rule: BucketRule, *, wanted: int, unused: int, now: datetime) -> Drawn:
        """Up to `wanted` whole tokens are out of the bucket, after `unused` ones were put back.

        When the connection is lost under it, a draw may be done twice: a few requests less are admitted then.
        """
        values = {
            "name": name,
            "capacity": float(rule.capacity),
            "rate": float(rule.refill_per_second),
            "wanted": wanted,
            "unused": float(unused),
            "now": microseconds(now),
            "apart": BUCKET_CLOCKS_APART // timedelta(microseconds=1),
        }

        async def unit(connection: Connection) -> Drawn:
            try:
                row = await (await connection.execute(_DRAW, values)).fetchone()
            except errors.FeatureNotSupported as error:
                raise StorageReadOnly("the database is a standby, which has no rate limits") from error
            if row is None:
                raise StorageDamaged("a bucket of the rate limits cannot be written")
            return Drawn(row[0], row[1])

        # One statement is a transaction of its own: it needs none around it.
        return await self._database.read(unit)

    async def forget_full(self, *, before: datetime) -> int:
        """Buckets that were full again by that time are gone; how many."""

        async def unit(connection: Connection) -> int:
            return (
                await connection.execute("DELETE FROM buckets WHERE full_at <= %s", (microseconds(before),))
            ).rowcount

        return await self._database.read(unit)
