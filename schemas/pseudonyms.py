"""Pseudonyms and sealed histories: what institutions' identities become before they leave the institution.

Every key is derived from one secret, per institution and purpose (HKDF-SHA-256, RFC 5869), so the same patient
is unlinkable across institutions and a pseudonym says nothing without the secret.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from schemas.errors import ConfigurationError

MIN_SECRET_LENGTH = 32


@dataclass(frozen=True, slots=True)
class InstitutionKeys:
    """An institution's keys: of patients' and encounters' pseudonyms, of its histories' cipher, of its sign-ins.

    `id` names them without telling them: 16 hexadecimal digits that derive from the same secret.
    """

    id: str = field(repr=False)
    patient: bytes = field(repr=False)
    encounter: bytes = field(repr=False)
    cipher: AESSIV = field(repr=False)
    session: bytes = field(repr=False)

    def patient_pseudonym(self, patient_id: str) -> str:
        """Return the patient's pseudonym: HMAC-SHA-256 cut to 128 bits, written as a version 8 UUID."""
        return _pseudonym(self.patient, patient_id)

    def encounter_pseudonym(self, encounter_id: str) -> str:
        """Return the encounter's pseudonym, of the same form."""
        return _pseudonym(self.encounter, encounter_id)

    def seal(self, data: bytes, patient_pseudonym: str) -> bytes:
        """Encrypt a history for storage, bound to its patient (AES-SIV, RFC 5297: equal in, equal out)."""
        return self.cipher.encrypt(data, [patient_pseudonym.encode()])

    def unseal(self, data: bytes, patient_pseudonym: str) -> bytes:
        """Decrypt what `seal` gave; raise cryptography's InvalidTag for another key, patient or byte."""
        return self.cipher.decrypt(data, [patient_pseudonym.encode()])


def institution_keys(secret: str, institution_id: str) -> InstitutionKeys:
    """Derive an institution's keys; raise ConfigurationError for a secret that is missing or short."""
    if len(secret) < MIN_SECRET_LENGTH:
        raise ConfigurationError(f"PSEUDONYM_KEY must be set, to at least {MIN_SECRET_LENGTH} characters.")

    def derive(purpose: str, length: int) -> bytes:
        info = f"healthalliance/{institution_id}/{purpose}".encode()
        return HKDF(SHA256(), length, salt=None, info=info).derive(secret.encode())

    return InstitutionKeys(
        derive("key-id", 8).hex(),
        derive("patient", 32),
        derive("encounter", 32),
        AESSIV(derive("history", 64)),
        derive("session", 32),
    )


@lru_cache(maxsize=8_192)  # a batch asks for the same ones again and again; a miss costs 3 µs
def _pseudonym(key: bytes, id_: str) -> str:
    number = int.from_bytes(hmac.digest(key, id_.encode(), "sha256")[:16])
    number = number & ~(0xF << 76) | (8 << 76)  # version 8: custom (RFC 9562)
    number = number & ~(0x3 << 62) | (2 << 62)  # variant
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
