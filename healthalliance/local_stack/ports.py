"""Ports on the loopback address."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports the parts take, unless somebody else has them."""

    kafka: int = 9092
    kafka_controller: int = 9093
    registry: int = 8081
    postgres: int = 5432


DEFAULT_PORTS = Ports()


def is_free(port: int) -> bool:
    """Tell whether a server could listen on the loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def wait_until_free(port: int, at_most_s: float) -> None:
    """Wait for a port, which a killed process holds until the last of its threads is gone; return when time is up."""
    deadline = time.monotonic() + at_most_s
    while not is_free(port) and time.monotonic() < deadline:
        time.sleep(0.1)


def free_port(preferred: Iterable[int], avoid: Collection[int] = ()) -> int:
    """Choose the first preferred port that is free and not to be avoided, else any such port."""
    for port in preferred:
        if port not in avoid and is_free(port):
            return port
    while (port := _any_port()) in avoid:
        pass
    return port


def _any_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
