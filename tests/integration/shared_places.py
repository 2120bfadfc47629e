"""All that lies outside the institutions' own topics: tables, shared topics, registries, files, logs."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx2
import pyarrow.parquet
from confluent_kafka.admin import AdminClient

from connectors.kafka import Admin
from connectors.kafka_access import client_properties
from connectors.settings import Settings
from schemas.institutions import institutions
from schemas.topics import TopicFamily, topic_name
from tests.integration.reading import ends_of, read_since

Place = tuple[str, bytes]

OWN = frozenset(
    topic_name(family, id_)
    for family in (TopicFamily.ENCOUNTERS, TopicFamily.RISK, TopicFamily.REJECTED)
    for id_ in institutions()
)
_POSITIONS_ONLY = frozenset({".index", ".timeindex"})  # of Kafka's, numbers in ten megabytes each


def tables(settings: Settings) -> Iterator[Place]:
    """Yield the rows of every table and view of every schema, in PostgreSQL's binary form: bytes as they are."""

    async def read() -> list[Place]:
        connection = await asyncpg.connect(settings.database_url)
        try:
            rows = await connection.fetch(
                "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables "
                "WHERE schemaname NOT IN ('pg_catalog', 'information_schema') "
                "UNION SELECT 'pg_catalog.pg_stat_activity'"
            )
            found = []
            for row in rows:
                to = io.BytesIO()
                await connection.copy_from_query(f"SELECT * FROM {row['name']}", output=to, format="binary")
                found.append((f"table {row['name']}", to.getvalue()))
            # What the planner keeps of columns holds values too.
            kept = await connection.fetch(_STATISTICS)
            found.append(("the planner's statistics", repr([tuple(row) for row in kept]).encode()))
            return found
        finally:
            await connection.close()

    yield from asyncio.run(read())


_STATISTICS = """
SELECT tablename, most_common_vals::text, histogram_bounds::text FROM pg_stats
WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
"""


def topics(settings: Settings) -> Iterator[Place]:
    """Yield each message of the topics that are not an institution's own, and of Kafka's and the registry's."""
    for topic in sorted(Admin(settings).topics()):
        if topic not in OWN:
            for one in read_since(settings, topic, dict.fromkeys(ends_of(settings, topic), 0)):
                yield f"topic {topic}", b"\n".join((one.key or b"", one.value or b"", repr(one.headers).encode()))


def kafka_itself(settings: Settings) -> Iterator[Place]:
    """Yield what the broker tells of topics and consumer groups."""
    admin = AdminClient(client_properties(settings))
    groups = admin.list_consumer_groups().result(30).valid
    ids = [one.group_id for one in groups]
    described = [future.result(30) for future in admin.describe_consumer_groups(ids).values()] if ids else []
    members = [(group.group_id, one.client_id, one.member_id, one.host) for group in described for one in group.members]
    yield "consumer groups", repr((ids, members)).encode()
    yield "names of topics", repr(sorted(Admin(settings).topics())).encode()


def schema_registry(settings: Settings) -> Iterator[Place]:
    """Yield every subject and its schemas."""
    with httpx2.Client(base_url=settings.schema_registry_url, timeout=30) as client:
        for subject in client.get("/subjects").json():
            yield f"schema {subject}", client.get(f"/subjects/{subject}/versions/latest").content


def files(folder: Path) -> Iterator[Place]:
    """Yield the files below a folder, the segments of the institutions' own topics left out."""
    for path in sorted(folder.rglob("*")):
        if _is_own(path) or path.suffix in _POSITIONS_ONLY or path.is_symlink() or not path.is_file():
            continue
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue  # a segment or a WAL file that has gone meanwhile
        yield f"file {path.relative_to(folder)}", content
        if path.suffix == ".parquet":
            yield f"rows of {path.name}", repr(pyarrow.parquet.read_table(path).to_pydict()).encode()


def _is_own(path: Path) -> bool:
    return any(part.rpartition("-")[0] in OWN for part in path.parts)
