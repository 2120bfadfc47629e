"""Patients' stored histories, which only the institution's own key opens."""

from __future__ import annotations

from collections.abc import Iterable

from connectors.score_reading import sealed_histories
from healthalliance.api.service import Service
from schemas.history import PatientHistory, decode_history
from streams.decision import Sender


async def stored_histories(
    service: Service, sender: Sender, patient_pseudonyms: Iterable[str]
) -> dict[str, PatientHistory]:
    """Read what is stored of the sender's patients, by pseudonym, as far as there is anything."""
    sealed = await sealed_histories(service.pool, sender.institution.id, patient_pseudonyms)
    return {pseudonym: decode_history(sender.keys.unseal(one, pseudonym)) for pseudonym, one in sealed.items()}
