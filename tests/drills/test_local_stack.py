"""The local stack on a real machine: started twice, killed in parts, its ports taken, stopped without a trace."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import psutil
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from pydantic import SecretStr

from connectors.kafka import ensure_topics, present_topics
from connectors.migrate import is_migrated, migrate
from connectors.settings import Settings
from healthalliance import local_stack
from healthalliance.local_stack import Part, Ports
from healthalliance.local_stack.processes import find_marked, is_running, marker
from healthalliance.local_stack.state import read_state, write_state
from schemas.access import institution_user
from schemas.errors import AccessRefusedError, UnavailableError
from schemas.institutions import institutions
from schemas.topics import TopicFamily, topic_name, topic_names
from tests.integration.command_line import run
from tests.integration.running import data_folder, four_free_ports

pytestmark = pytest.mark.stack

_SERVERS = (Part.KAFKA, Part.REGISTRY, Part.POSTGRES)


@dataclass(frozen=True, slots=True)
class Own:
    """A stack that these tests may break: as a person set it, as it runs, and what its start said."""

    settings: Settings = field(repr=False)
    running: Settings = field(repr=False)
    wanted: Ports
    said: list[str]


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Be another program that has the port."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen(1)
        yield


@pytest.fixture(scope="module")
def own() -> Iterator[Own]:
    """Start a stack whose wanted broker and database ports another program has."""
    wanted, said = four_free_ports(), list[str]()
    with data_folder() as settings:
        with taken(wanted.kafka), taken(wanted.postgres):
            running = local_stack.up(settings, said.append, wanted)
        ensure_topics(running)
        migrate(running.database_url)
        yield Own(settings, running, wanted, said)


def pids(settings: Settings) -> dict[Part, int | None]:
    return {one.part: one.pid for one in local_stack.status(settings) if one.part in _SERVERS}


def states(settings: Settings) -> dict[Part, str]:
    return {one.part: one.state for one in local_stack.status(settings)}


def process_tree(settings: Settings) -> list[psutil.Process]:
    roots = [psutil.Process(pid) for pid in pids(settings).values() if pid is not None]
    return [*roots, *(child for root in roots for child in root.children(recursive=True))]


def up_again(own: Own) -> Settings:
    return local_stack.up(own.settings, own.said.append, own.wanted)


def kill(pid: int | None) -> None:
    """Kill one process, and see it gone, without a word to its children."""
    assert pid is not None
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_running(process):
        assert time.monotonic() < deadline, "a killed process still runs"
        time.sleep(0.02)


def assert_works(settings: Settings) -> None:
    """See that what was made before is still there, in every part."""
    assert present_topics(settings) >= set(topic_names(TopicFamily.ENCOUNTERS))
    assert is_migrated(settings.database_url)
    with SchemaRegistryClient({"url": settings.schema_registry_url}) as client:
        assert client.get_subjects() is not None


def test_a_port_that_another_program_has_is_replaced_and_that_is_said(own: Own) -> None:
    state = read_state(own.running.data_dir)
    assert state[Part.KAFKA].ports[0] != own.wanted.kafka
    assert state[Part.POSTGRES].ports != (own.wanted.postgres,)
    assert state[Part.KAFKA].ports[1] == own.wanted.kafka_controller
    assert state[Part.REGISTRY].ports == (own.wanted.registry,)
    replaced = [text for text in own.said if "another program has" in text]
    assert sorted(text.rpartition(" ")[2] for text in replaced) == sorted(
        [str(own.wanted.kafka), str(own.wanted.postgres)]
    )
    assert_works(own.running)


def test_every_part_listens_on_loopback_only(own: Own) -> None:
    connections = [one for process in process_tree(own.settings) for one in process.net_connections(kind="inet")]
    listening = {one.laddr for one in connections if one.status == psutil.CONN_LISTEN}
    datagrams = {one.laddr for one in connections if one.type == socket.SOCK_DGRAM and one.laddr}
    known = {port for running in read_state(own.running.data_dir).values() for port in running.ports}
    assert {address.ip.removeprefix("::ffff:") for address in listening | datagrams} == {"127.0.0.1"}
    assert {address.port for address in listening} >= known


def test_starting_it_twice_changes_nothing(own: Own) -> None:
    before = pids(own.settings)
    assert up_again(own) == own.running
    by_command = run(own.settings, "up", "--json")
    assert by_command.code == 0, by_command.stderr
    assert {one["part"]: one["pid"] for one in by_command.document if one["pid"]} == {
        str(part): pid for part, pid in before.items()
    }
    assert pids(own.settings) == before
    assert None not in before.values()


def test_a_killed_broker_is_told_of_and_started_again_where_it_was(own: Own) -> None:
    before = pids(own.settings)
    kill(before[Part.KAFKA])
    assert states(own.settings)[Part.KAFKA] == "stopped"
    with pytest.raises(UnavailableError, match="Apache Kafka is not running"):
        local_stack.connected(own.settings)
    assert up_again(own) == own.running
    after = pids(own.settings)
    assert after[Part.KAFKA] not in (None, before[Part.KAFKA])
    assert (after[Part.REGISTRY], after[Part.POSTGRES]) == (before[Part.REGISTRY], before[Part.POSTGRES])
    assert_works(own.running)


def test_a_state_that_a_crash_left_behind_does_not_keep_it_from_starting(own: Own) -> None:
    """Kill every server, and let the remembered pid of each be that of a living stranger, as after a reboot."""
    before = pids(own.settings)
    for pid in before.values():
        kill(pid)
    state = read_state(own.running.data_dir)
    write_state(own.running.data_dir, {part: replace(one, pid=os.getpid()) for part, one in state.items()})
    assert {states(own.settings)[part] for part in _SERVERS} == {"stopped"}
    assert up_again(own) == own.running
    assert not {*before.values(), os.getpid()} & set(pids(own.settings).values())
    assert_works(own.running)


def test_stopping_it_leaves_no_process_and_keeps_the_data(own: Own) -> None:
    processes, before = process_tree(own.settings), time.monotonic()
    stopped = run(own.settings, "down", "--json")
    assert time.monotonic() - before < 12
    assert stopped.document == {"stopped": ["kafka", "registry", "postgres"]}
    assert len(processes) > len(_SERVERS)
    assert [process for process in processes if is_running(process)] == []
    assert [part for part in _SERVERS if find_marked(marker(part, own.running.data_dir))] == []
    assert set(states(own.settings).values()) == {"stopped"}
    assert run(own.settings, "down", "--json").document == {"stopped": []}
    again = up_again(own)
    assert again.pseudonym_key == own.running.pseudonym_key
    assert_works(again)


def test_a_given_address_replaces_its_part_and_nothing_is_started_for_it(own: Own, stack: Settings) -> None:
    given = {name: getattr(stack, name) for name in ("kafka_bootstrap_servers", "schema_registry_url")}
    with data_folder() as settings:
        settings = settings.model_copy(update=given)
        running = local_stack.up(settings, lambda _: None, four_free_ports())
        assert {name: getattr(running, name) for name in given} == given
        assert states(settings) == {
            Part.KAFKA: "external",
            Part.REGISTRY: "external",
            Part.POSTGRES: "running",
            Part.MLFLOW: "running",
        }
        data_dir = running.data_dir
        assert [part for part in _SERVERS if find_marked(marker(part, data_dir))] == [Part.POSTGRES]
        assert local_stack.down(settings) == (Part.POSTGRES,)
    assert set(states(stack).values()) == {"external"}
    assert present_topics(stack) >= set(topic_names(TopicFamily.ENCOUNTERS))


# --- its Kafka's users


def test_its_kafka_takes_nobody_without_a_users_password(own: Own) -> None:
    running = local_stack.connected(own.settings)
    strange = running.model_copy(update={"kafka_sasl_password": SecretStr("guessed")})
    with pytest.raises(AccessRefusedError, match="does not know this user or password"):
        present_topics(strange)
    with pytest.raises(UnavailableError):
        present_topics(running.model_copy(update={"kafka_security_protocol": "PLAINTEXT"}))


def test_each_user_of_its_kafka_sees_what_the_rules_let_it_see(own: Own) -> None:
    running = local_stack.connected(own.settings)
    assert run(own.settings, "acl", "apply", "--json").document["add"] == []
    for id_ in institutions():
        seen = present_topics(local_stack.as_user(running, institution_user(id_)))
        assert seen == {topic_name(one, id_) for one in TopicFamily if one is not TopicFamily.FEATURES}


def test_its_secrets_are_its_owners_alone(own: Own) -> None:
    folder = own.running.data_dir / "kafka-users"
    assert folder.stat().st_mode & 0o077 == 0
    for file in (folder / "passwords.json", own.running.data_dir / "kafka" / "server.properties"):
        assert file.stat().st_mode & 0o077 == 0


def test_a_stack_that_was_made_without_users_goes_on_so() -> None:
    with data_folder() as settings:
        local_stack.up(settings, lambda _: None, ports := four_free_ports(), secured=False)
        local_stack.down(settings)
        running = local_stack.up(settings, lambda _: None, ports)
        assert running.kafka_security_protocol == "PLAINTEXT"
        assert present_topics(running) == set()
