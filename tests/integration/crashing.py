"""Kill a worker as a power cut would, and see to it that the next one can start at once."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.group import LeaveGroupRequest
from confluent_kafka.admin import AdminClient

from connectors.kafka_access import client_properties
from connectors.settings import Settings
from healthalliance.progress import fetch
from healthalliance.workers import WorkerProcesses
from schemas.topics import TopicFamily, topic_name
from tests.integration.running import wait_until


def kill(workers: WorkerProcesses) -> None:
    """Kill the worker with a signal that it cannot see, and wait until it is gone."""
    [pid] = workers.pids()
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until("the worker is dead", lambda: process.status() == psutil.STATUS_ZOMBIE)


def applied_events(settings: Settings, institution: str) -> int:
    """Count an institution's applied events by its progress rows."""
    topic = topic_name(TopicFamily.ENCOUNTERS, institution)
    return int(fetch(settings, _APPLIED, topic)[0]["applied"])


def remove_dead_members(settings: Settings) -> None:
    """Take the killed workers out of the consumer group; else the next one waits until their sessions time out."""
    admin = AdminClient(client_properties(settings))
    group = admin.describe_consumer_groups([settings.consumer_group])[settings.consumer_group].result(15)
    asyncio.run(_leave(settings, [member.member_id for member in group.members]))


async def _leave(settings: Settings, member_ids: list[str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        coordinator = await admin.find_coordinator(settings.consumer_group)
        for member_id in member_ids:
            await admin._send_request(LeaveGroupRequest(settings.consumer_group, member_id), coordinator)
    finally:
        await admin.close()


_APPLIED = """
SELECT coalesce(sum(scored + updated + unchanged + retracted + rejected), 0) AS applied
FROM stream_progress WHERE topic = $1
"""
