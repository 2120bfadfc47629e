"""Which institution a key opens. Only hashes are held; several at once, so that keys are rotated without downtime."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from schemas.errors import ConfigurationError
from schemas.institutions import institution

_PREFIX = "sha256:"
_HASH = re.compile(rf"{_PREFIX}[0-9a-f]{{64}}")


def new_key(institution_id: str) -> str:
    """Make a key of 256 random bits; its prefix tells people, and scanners for leaked secrets, what it is."""
    return f"ha_{institution_id}_{secrets.token_urlsafe(32)}"


def key_hash(key: str) -> str:
    """Return what is stored of a key. It is random and long, so that a plain hash suffices.

    >>> key_hash("ha_dkfz_x")[:15]
    'sha256:23fb275e'
    """
    return _PREFIX + sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All hashes that are valid now, with the institution each opens."""

    hashes: tuple[tuple[str, str], ...] = field(repr=False)

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> KeyRing:
        """Read institution → comma-separated hashes; raise ConfigurationError for what is no hash or institution."""
        found = []
        for id_, text in settings.items():
            institution(id_)
            for one in filter(None, (part.strip() for part in text.split(","))):
                if not _HASH.fullmatch(one):
                    raise ConfigurationError(
                        f"INSTITUTION_API_KEY_{id_.upper()} takes hashes, sha256:… with 64 hexadecimal digits, "
                        "separated by commas; `healthalliance api-key` makes keys with their hashes."
                    )
                found.append((one, id_))
        return cls(tuple(found))

    def institution_of(self, key: str) -> str | None:
        """Return the institution that a key opens, None for any other text; takes as long for one as for another."""
        given, opened = key_hash(key).encode(), None
        for stored, id_ in self.hashes:
            if hmac.compare_digest(given, stored.encode()):
                opened = id_
        return opened
