"""Tell those who watch an institution's worklist that something changed; one look at the database for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import asyncpg

from connectors.store import AWAY
from connectors.worklist import change_token
from healthalliance.api.problems import unavailable

_LOOK_EVERY_S = 0.5
_SAY_SOMETHING_EVERY_S = 15.0  # so that whoever listens, and what lies between, knows that the line is up
_MOST_WATCHERS = 500  # of all institutions in this process; each is a connection that stays open


class Changes:
    """Looks every half second for each institution that somebody watches, and never for the others."""

    def __init__(self, pools: Mapping[str, asyncpg.Pool[Any]]) -> None:
        self._pools = pools
        self._waiting: dict[str, set[asyncio.Queue[str | None]]] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}

    def require_room(self) -> None:
        """Raise ProblemError 503 where too many watch already."""
        if sum(map(len, self._waiting.values())) >= _MOST_WATCHERS:
            raise unavailable("Too many watch the worklist.", retry_after_s=30)

    async def of(self, institution: str) -> AsyncIterator[str | None]:
        """Yield a token at once and after each change, and None where there was none for a while, until closed."""
        told: asyncio.Queue[str | None] = asyncio.Queue(maxsize=1)  # what waits untold is outdated by the next
        self._waiting.setdefault(institution, set()).add(told)
        if institution not in self._looking:
            self._looking[institution] = asyncio.create_task(self._look(institution))
        try:
            last = await self._token(institution) or ""
            yield last
            while True:
                try:
                    token = await asyncio.wait_for(told.get(), _SAY_SOMETHING_EVERY_S)
                except TimeoutError:
                    yield None
                    continue
                if token is None:
                    return
                if token != last:
                    last = token
                    yield token
        finally:
            self._waiting[institution].discard(told)
            if not self._waiting[institution] and (task := self._looking.pop(institution, None)):
                task.cancel()

    def close(self) -> None:
        """End all watching: the server stops."""
        for watchers in self._waiting.values():
            for told in watchers:
                _tell(told, None)
        for task in self._looking.values():
            task.cancel()

    async def _look(self, institution: str) -> None:
        last: str | None = None
        while True:
            token = await self._token(institution)
            if token is not None and token != last:
                last = token
                for told in self._waiting.get(institution, ()):
                    _tell(told, token)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _token(self, institution: str) -> str | None:
        try:
            return await change_token(self._pools[institution], institution)
        except AWAY:
            return None  # whoever watches is told once it is back


def _tell(told: asyncio.Queue[str | None], token: str | None) -> None:
    if told.full():
        told.get_nowait()
    told.put_nowait(token)
