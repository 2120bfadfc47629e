"""Faults of the network: workers in a network namespace of their own, whose links are cut, lossy or narrow.

nftables drops packets within that namespace, and tc's tbf narrows the links; netem is not in every kernel.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from urllib.parse import urlsplit

from connectors.settings import Settings
from healthalliance.workers import WorkerProcesses
from tests.faults.kafka_nodes import Cluster, folder_beside
from tests.faults.trial import Trial, quiet_stack, what_root_lacks

_CUT_S = (5.0, 25.0)
_POOR_S = 20.0
_LOST_PERCENT = 5
_NARROW = ("tbf", "rate", "1mbit", "burst", "16kb", "latency", "400ms")  # about half of what the load needs
_START_S = 8.0


@dataclass(frozen=True, slots=True)
class Link:
    """A pair of virtual Ethernet ends: one here, where the servers are, one in the workers' namespace."""

    name: str
    subnet: str

    @property
    def here(self) -> str:
        """The address of the servers' end."""
        return f"{self.subnet}.1"


# Of this process alone, so that runs side by side do not meet.
_PREFIX = f"ha{os.getpid() % 100_000}"
_NET, _SUBNET = f"10.{64 + os.getpid() % 64}", os.getpid() // 64 % 64 * 4
NAMESPACE = f"{_PREFIX}-w"
TO_KAFKA = Link(f"{_PREFIX}k", f"{_NET}.{_SUBNET}")
TO_DATABASE = Link(f"{_PREFIX}d", f"{_NET}.{_SUBNET + 1}")
TO_REGISTRY = Link(f"{_PREFIX}r", f"{_NET}.{_SUBNET + 2}")
_LINKS = (TO_KAFKA, TO_DATABASE, TO_REGISTRY)
_TABLE = "faults"
_HOOKS = {"input": "iifname", "output": "oifname"}  # what comes from the servers, and what the workers send
COMMAND = ("ip", "netns", "exec", NAMESPACE, sys.executable, "-m", "healthalliance")


def why_not() -> str | None:
    """Say what keeps this machine from having networks of its own, None where nothing does."""
    if (lacking := what_root_lacks(["ip", "tc", "nft"], "iproute2 nftables")) is not None:
        return lacking
    tried = subprocess.run(["ip", "netns", "add", f"{_PREFIX}-try"], capture_output=True, check=False)
    if tried.returncode != 0:
        return "this machine does not allow network namespaces"
    _run("ip", "netns", "del", f"{_PREFIX}-try")
    return None


@contextmanager
def stack_behind_links(settings: Settings) -> Iterator[Settings]:
    """Run a local stack whose addresses, as the workers know them, lead through links that can be disturbed."""
    with ExitStack() as at_end:
        _make_network(at_end)
        cluster = Cluster(folder_beside(settings), TO_KAFKA.here)
        at_end.callback(cluster.stop)
        cluster.start()
        given = settings.model_copy(update={"kafka_bootstrap_servers": cluster.addresses})
        running = at_end.enter_context(quiet_stack(given))
        # Both listen on loopback; what passes on to them stands at the servers' end of the links.
        for link, url in ((TO_DATABASE, running.database_url), (TO_REGISTRY, running.schema_registry_url)):
            at_end.callback(_relay(link.here, urlsplit(url).port or 0).close)
        database, registry = urlsplit(running.database_url).hostname, urlsplit(running.schema_registry_url).hostname
        yield running.model_copy(
            update={
                "database_url": running.database_url.replace(f"@{database}:", f"@{TO_DATABASE.here}:"),
                "schema_registry_url": running.schema_registry_url.replace(f"{registry}:", f"{TO_REGISTRY.here}:"),
            }
        )


def _make_network(at_end: ExitStack) -> None:
    _run("ip", "netns", "add", NAMESPACE)
    at_end.callback(_run, "ip", "netns", "del", NAMESPACE)  # its ends of the links go with it, and so the others
    _there("ip", "link", "set", "lo", "up")
    for link in _LINKS:
        _run("ip", "link", "add", link.name, "type", "veth", "peer", "name", f"{link.name}p", "netns", NAMESPACE)
        _run("ip", "address", "add", f"{link.here}/24", "dev", link.name)
        _run("ip", "link", "set", link.name, "up")
        _there("ip", "address", "add", f"{link.subnet}.2/24", "dev", f"{link.name}p")
        _there("ip", "link", "set", f"{link.name}p", "up")
    _there("nft", "add", "table", "inet", _TABLE)
    for hook in _HOOKS:
        _there("nft", f"add chain inet {_TABLE} {hook} {{ type filter hook {hook} priority 0; }}")


def _relay(host: str, port: int) -> socket.socket:
    """Pass connections on to the same port of loopback."""
    server = socket.create_server((host, port))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                upstream = socket.create_connection(("127.0.0.1", port))
                for pair in ((client, upstream), (upstream, client)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return server


def give_time(_: WorkerProcesses) -> None:
    """Let the workers start: nobody here can ask them whether they are ready."""
    time.sleep(_START_S)


def disturb(trial: Trial) -> None:
    """Disturb one link after the other, and measure how long it takes to have caught up once it is well again."""
    harms: list[Callable[[Trial], None]] = [
        lambda trial: _cut(trial, TO_KAFKA, "input", "output"),
        lambda trial: _cut(trial, TO_DATABASE, "input", "output"),
        lambda trial: _cut(trial, TO_KAFKA, "input"),
        lambda trial: _cut(trial, TO_DATABASE, "output"),
        lambda _: _lose(),
        lambda _: _narrow(),
        lambda trial: _cut(trial, TO_KAFKA, "output"),
        lambda trial: _cut(trial, TO_DATABASE, "input"),
    ]
    rate = trial.scenario.events_per_s or 0.0
    for number in trial.moments():
        harms[number % len(harms)](trial)
        trial.measure("catch_up_s", trial.wait_until(lambda: trial.watch.waiting < rate, 180))


def _cut(trial: Trial, link: Link, *hooks: str) -> None:
    with _dropping(hooks, (link,)):
        time.sleep(trial.rng.uniform(*_CUT_S))


def _lose() -> None:
    with _dropping(_HOOKS, (TO_KAFKA, TO_DATABASE), f"numgen random mod 100 < {_LOST_PERCENT}"):
        time.sleep(_POOR_S)


@contextmanager
def _dropping(hooks: Iterable[str], links: Iterable[Link], which: str = "") -> Iterator[None]:
    """Drop packets of the links, in the directions of the hooks: all, or which."""
    try:
        for hook, link in product(hooks, links):
            _there("nft", f'add rule inet {_TABLE} {hook} {_HOOKS[hook]} "{link.name}p" {which} drop')
        yield
    finally:
        _there("nft", "flush", "table", "inet", _TABLE)


def _narrow() -> None:
    with ExitStack() as at_end:
        for link in (TO_KAFKA, TO_DATABASE):
            for run, device in ((_run, link.name), (_there, f"{link.name}p")):
                run("tc", "qdisc", "add", "dev", device, "root", *_NARROW)
                at_end.callback(run, "tc", "qdisc", "del", "dev", device, "root")
        time.sleep(_POOR_S)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _there(*command: str) -> None:
    _run("ip", "netns", "exec", NAMESPACE, *command)
