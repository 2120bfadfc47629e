"""The settings, read from the environment (or a `.env` file) here and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from schemas.access import WORKER_GROUP
from schemas.errors import ConfigurationError
from schemas.intake.event_bytes import Limits


class Settings(BaseSettings):
    """What can be set from outside; each field is the upper-case environment variable of its name.

    An empty address means: the local stack's, found in `data_dir`.
    """

    # Only what has names below its own, as `institution_api_key`, is cut at underscores.
    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", frozen=True, env_nested_delimiter="_", env_nested_max_split=1
    )

    data_dir: Path = Field(Path(".local"), description="where the local stack keeps its data")

    kafka_bootstrap_servers: str = Field("", description="Kafka brokers, host:port,…")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how Kafka is spoken to: SSL encrypts, SASL names a user"
    )
    kafka_sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256"] = Field(
        "SCRAM-SHA-512", description="how the user proves to be it"
    )
    kafka_sasl_username: str = Field("", description="the user, as in schemas/access.py")
    kafka_sasl_password: SecretStr = Field(SecretStr(""), description="the user's password")
    kafka_ssl_ca_location: str = Field(
        "", description="file of the authorities that vouch for brokers, PEM; empty: the system's"
    )
    kafka_ssl_certificate_location: str = Field(
        "", description="file of this client's certificate, PEM, where brokers ask for one; empty: none"
    )
    kafka_ssl_key_location: str = Field("", description="file of the certificate's key, PEM, unsealed")
    kafka_replication_factor: int = Field(1, ge=1, description="replicas of each topic")
    topic_partitions: int = Field(4, ge=1, description="partitions of each topic when it is created")
    consumer_group: str = Field(WORKER_GROUP, description="the workers' consumer group")
    schema_registry_url: str = Field("", description="Confluent-compatible schema registry")
    database_url: str = Field("", description="postgresql://user:password@host:port/database")
    mlflow_tracking_uri: str = Field("", description="MLflow tracking and registry store")

    dvc_remote_url: str = Field(
        "", description="where exported snapshots are pushed to, e.g. s3://bucket/prefix; empty: nowhere"
    )

    pseudonym_key: SecretStr = Field(
        SecretStr(""), description="secret of at least 32 characters that pseudonyms and sealed histories derive from"
    )
    pseudonym_key_previous: SecretStr = Field(
        SecretStr(""),
        description="the secret before it, while `healthalliance pseudonym rotate` changes it; empty: none",
    )
    erasure_key_location: str = Field(
        "", description="file of the Ed25519 key, PEM, that certificates of erasure are signed with"
    )

    model_name: str = Field("readmission-risk", description="registered model")
    model_alias: str = Field("champion", description="alias of the version that scores")
    model_challenger_alias: str = Field("challenger", description="alias of the version beside it; empty: none")
    model_signing_key: SecretStr = Field(
        SecretStr(""),
        description="key that models are signed with when they are registered, base64; the trainer's alone",
    )
    model_public_keys: str = Field(
        "", description="keys of which one must have signed a model that is used, base64,…; empty: none has to"
    )
    model_poll_s: float = Field(10.0, gt=0, description="seconds between looks for a new champion")
    performance_every_s: float = Field(300.0, gt=0, description="seconds between looks at outcomes and drift")

    train_search_budget_s: float = Field(
        120.0, ge=0, description="seconds of training that go into the search for the trees' shape"
    )
    dask_scheduler_address: str = Field(
        "", description="Dask scheduler, tcp://host:port, for train --backend dask; empty: this machine's processors"
    )

    gate_auroc_margin: float = Field(
        0.01, ge=0, description="how far below the champion's a new model's AUROC may be to replace it"
    )
    gate_brier_margin: float = Field(
        0.002, ge=0, description="how far above the champion's a new model's Brier score may be to replace it"
    )
    gate_calibration_ratio: float = Field(
        1.25, gt=1, description="r: a champion's calibration slope and observed/expected lie within 1/r and r"
    )
    gate_group_auroc_floor: float = Field(
        0.55, ge=0, le=1, description="least AUROC of a champion for any institution, gender or age group"
    )
    gate_group_min: int = Field(
        50, ge=10, description="stays with and without a readmission from which on a group counts for it"
    )

    batch_max_events: int = Field(500, ge=1, description="events in one micro-batch at most")
    batch_max_wait_s: float = Field(0.02, gt=0, description="seconds a batch waits to fill")
    event_max_bytes: int = Field(5_000_000, ge=1, description="largest accepted event, bytes")
    event_max_depth: int = Field(64, ge=1, description="deepest accepted JSON nesting, levels")
    event_max_entries: int = Field(5_000, ge=1, description="most accepted entries of a Bundle")
    structure_validator: Literal["fhirkit", "fhir.resources"] = Field(
        "fhirkit", description="which library judges FHIR structure"
    )
    rejected_share_limit: float = Field(0.2, gt=0, le=1, description="share of rejected events that stops intake")
    rejected_share_window: int = Field(1000, ge=1, description="events the share is taken over")
    retry_timeout_s: float = Field(60.0, gt=0, description="seconds of outage a worker waits out before it exits")

    metrics_host: str = Field("127.0.0.1", description="address of the worker's health and metrics server")
    metrics_port: int = Field(8001, ge=0, le=65535, description="its port; further processes take the next ones")

    api_host: str = Field("127.0.0.1", description="address of the HTTP API")
    api_port: int = Field(8000, ge=0, le=65535, description="its port")
    api_metrics_port: int = Field(8010, ge=0, le=65535, description="port of its metrics, on METRICS_HOST")
    institution_api_key: dict[str, str] = Field(
        {}, description="hashes of the institution's API keys, sha256:…,…; `healthalliance api-key` makes them"
    )
    api_requests_per_s: float = Field(2000.0, gt=0, description="requests a second of one institution to a process")
    api_max_in_flight: int = Field(200, ge=1, description="events over HTTP that wait for Kafka at once")
    api_body_timeout_s: float = Field(15.0, gt=0, description="seconds that a request's body may take to arrive")

    alert_webhook_url: SecretStr = Field(SecretStr(""), description="where alerts are posted to, https://…")
    alert_webhook_secret: SecretStr = Field(
        SecretStr(""),
        description="secret of at least 24 characters that posted alerts are signed with; empty: unsigned",
    )
    alert_internal_receivers: str = Field(
        "",
        description="own hosts and networks that alerts may be posted to, separated by commas, e.g. 10.1.0.0/16",
    )
    alert_slack_url: SecretStr = Field(SecretStr(""), description="Slack's incoming webhook that alerts go to")
    alert_smtp_host: str = Field("", description="mail server that alerts are sent by")
    alert_smtp_port: int = Field(587, ge=1, le=65535, description="its port")
    alert_smtp_security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="how the connection to it is secured; none on this machine only"
    )
    alert_smtp_user: str = Field("", description="its user; empty: no login")
    alert_smtp_password: SecretStr = Field(SecretStr(""), description="the user's password")
    alert_email_from: str = Field("", description="sender of mailed alerts")
    alert_email_to: str = Field("", description="receivers of mailed alerts, separated by commas")
    alert_timeout_s: float = Field(10.0, gt=0, description="seconds that a receiver of alerts may take to answer")
    alert_worklist_url: str = Field("", description="page that alerts link to; empty: no link")
    alert_metrics_port: int = Field(8020, ge=0, le=65535, description="port of the alerts' metrics, on METRICS_HOST")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least severe logged level")
    log_format: Literal["text", "json"] = Field("text", description="lines for people, or a JSON object a line")
    otel_exporter_otlp_endpoint: str = Field(
        "", description="OpenTelemetry collector that spans go to over HTTP, http://host:4318; empty: none are made"
    )

    @property
    def event_limits(self) -> Limits:
        """The limits of an event, together."""
        return Limits(self.event_max_bytes, self.event_max_depth, self.event_max_entries)

    @field_validator("institution_api_key")
    @classmethod
    def _given(cls, keys: dict[str, str]) -> dict[str, str]:
        return {institution: hashes for institution, hashes in keys.items() if hashes}


def settings_environment(settings: Settings) -> dict[str, str]:
    """Return the settings as the environment of a process that is to have the same ones."""
    found: dict[str, str] = {}
    for name, value in settings:
        if isinstance(value, dict):
            found |= {f"{name}_{key}".upper(): str(one) for key, one in value.items()}
        else:
            found[name.upper()] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return found


def load_settings() -> Settings:
    """Read the settings; raise ConfigurationError that names the variable, never its value."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0]).upper()
        raise ConfigurationError(f"{name}: {first['msg']}.") from None
    except SettingsError:
        raise ConfigurationError("INSTITUTION_API_KEY: its name ends in an institution's, such as …_DKFZ.") from None
