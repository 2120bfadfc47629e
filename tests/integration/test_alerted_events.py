"""From a hospital's event to an alert, and away again with the patient."""

from __future__ import annotations

from uuid import uuid4

import pytest

from connectors.kafka import OutMessage, Publisher
from healthalliance.progress import fetch, wait_until_applied
from healthalliance.workers import WorkerProcesses
from schemas.topics import TopicFamily, topic_name
from tests.integration.alerting import alerts_of
from tests.integration.command_line import run
from tests.integration.reading import keys_of, latest_risk
from tests.integration.running import Trained
from tests.unit.schemas.fhir_events import bundle, condition, encounter, patient, to_bytes

pytestmark = pytest.mark.stack

_INSTITUTION = "dkfz"


def send(trained: Trained, value: bytes | None) -> None:
    """Publish an event of the patient, or the tombstone that erases it, and wait until it is applied."""
    topic = topic_name(TopicFamily.ENCOUNTERS, _INSTITUTION)
    Publisher(trained.settings).publish([OutMessage(topic, b"Patient/alerted", value)])
    wait_until_applied(trained.settings, 120)


def test_a_hospitals_event_becomes_an_alert_and_its_erasure_takes_it_away(
    trained: Trained, worker: WorkerProcesses
) -> None:
    settings, channel = trained.settings, f"test-{uuid4().hex[:12]}"
    arguments = ("alerts", "-i", _INSTITUTION, "--channel", channel, "--min-band", "low", "--once", "--json")
    assert run(settings, *arguments).code == 0
    ill = [condition(f"alerted-{code}", code=code, patient="alerted") for code in ("I50", "E11", "N18", "J44", "C34")]
    send(trained, to_bytes(bundle(encounter("alerted", patient="alerted"), patient("alerted", "1944-04-01"), *ill)))
    [alert] = run(settings, *arguments).document["sent"]
    stored = latest_risk(settings, _INSTITUTION, ["alerted"])["alerted"]
    assert alert["record_id"] == str(stored["record_id"])
    assert (alert["probability"], alert["band"]) == (stored["probability"], stored["band"])
    assert alert["encounter_pseudonym"] == keys_of(settings, _INSTITUTION).encounter_pseudonym("alerted")
    assert alert["reasons"]  # five conditions raise the risk, whatever the model has learned
    send(trained, None)
    assert alerts_of(settings, channel) == []
    assert run(settings, *arguments).document["sent"] == []
    assert fetch(settings, "SELECT FROM alert_standings WHERE channel = $1 AND patient_pseudonym = $2", channel,
                 alert["patient_pseudonym"]) == []  # fmt: skip
