"""Ports that nobody else gets while a part is away."""

from __future__ import annotations

import os

from healthalliance.local_stack.ports import free_port

_A_PROCESS = 20  # ports


def lasting_ports(number: int) -> list[int]:
    """Choose free ports of this process alone, below those that outgoing connections take."""
    first = 20_000 + os.getpid() % 500 * _A_PROCESS
    chosen: list[int] = []
    for _ in range(number):
        chosen.append(free_port(range(first, first + _A_PROCESS), avoid=chosen))
    return chosen
