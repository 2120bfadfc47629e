"""Workers that are broken on purpose: the scenarios must find them out, else they prove nothing.

python -m tests.faults.mutants NAME worker …
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Any

import faust
from aiokafka.structs import ConsumerRecord
from faust.types import TP

from connectors.store import Batch, Partition
from healthalliance.cli import main
from streams import processor
from streams.transport import RunConsumer

_SLOW_S = 0.5


def naive() -> None:
    """Take as Faust's `take` does: what was taken is acknowledged once more is asked for, whatever became of it."""
    leap()
    noack_take = faust.Stream.noack_take

    async def take(self: Any, most: int, within: float) -> AsyncIterator[Any]:
        async for runs in noack_take(self, most, within):
            yield runs
            for run in runs:
                run.ack()

    setattr(faust.Stream, "noack_take", take)  # noqa: B010  # mypy holds methods to be constant
    be_slow()


def early_ack() -> None:
    """Acknowledge events and commit their offsets when they are handed over, before they are applied."""
    leap()
    hand_over = RunConsumer._hand_over

    async def acknowledged(self: RunConsumer, tp: TP, records: list[ConsumerRecord[bytes, bytes]]) -> None:
        await hand_over(self, tp, records)
        for message in list(self._unacked_messages):
            self.ack(message)
        await self.commit()

    setattr(RunConsumer, "_hand_over", acknowledged)  # noqa: B010


def be_slow() -> None:
    """Take a while to apply, as on a busy database, so that a kill meets what is acknowledged and not applied."""
    apply = processor.Processor.apply

    async def slowly(self: processor.Processor, *given: Any) -> processor.Results:
        await asyncio.sleep(_SLOW_S)
        return await apply(self, *given)

    setattr(processor.Processor, "apply", slowly)  # noqa: B010


def leap() -> None:
    """Go on wherever the consumer group's offset is; a right worker ends rather than leave events out."""
    setattr(processor, "_require_whole", lambda *_: None)  # noqa: B010


def no_fence() -> None:
    """Apply whatever comes, applied before or not."""
    lock_progress = Batch.lock_progress

    async def unlocked(self: Batch, firsts: Mapping[Partition, int], now: datetime) -> dict[Partition, int]:
        await lock_progress(self, firsts, now)
        return dict(firsts)

    setattr(Batch, "lock_progress", unlocked)  # noqa: B010


MUTANTS: dict[str, Callable[[], None]] = {"naive": naive, "early-ack": early_ack, "no-fence": no_fence}


def command(mutant: str) -> tuple[str, ...]:
    """Return the command that runs a mutant's workers."""
    return (sys.executable, "-m", "tests.faults.mutants", mutant)


if __name__ == "__main__":
    MUTANTS[sys.argv.pop(1)]()
    main()
