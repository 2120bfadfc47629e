"""The errors a person may meet; each docstring is the default message, each class has its exit code.

An event that cannot be accepted is a `schemas.rejection.Rejection`, a value, and never one of these.
"""

from __future__ import annotations


class HealthAllianceError(Exception):
    """Something went wrong."""

    exit_code = 70

    def __str__(self) -> str:
        return super().__str__() or str(type(self).__doc__)


class ConfigurationError(HealthAllianceError):
    """A setting is missing or makes no sense."""

    exit_code = 3


class UnavailableError(HealthAllianceError):
    """A system this one depends on does not answer."""

    exit_code = 4


class ModelRefusedError(HealthAllianceError):
    """The model's digest or signature is not the expected one."""

    exit_code = 5

    def __init__(self, message: str = "", *, reason: str = "unfit") -> None:
        super().__init__(message)
        self.reason = reason  # a word for counting: digest, unreadable, signature, card, features, fails, unfit


class NoModelError(HealthAllianceError):
    """No champion model is registered yet."""

    exit_code = 6


class FencedError(HealthAllianceError):
    """Another worker has moved this partition's progress."""

    exit_code = 7


class IncompatibleSchemaError(HealthAllianceError):
    """A schema cannot be read with the one that is registered before it."""

    exit_code = 8


class IntakeStoppedError(HealthAllianceError):
    """Too large a share of an institution's events is rejected."""

    exit_code = 9


class LocalStackError(HealthAllianceError):
    """The local stack could not be started or stopped."""

    exit_code = 10


class NotEnoughStaysError(HealthAllianceError):
    """There are not enough finished stays with and without readmission to train on yet."""

    exit_code = 11


class PromotionRefusedError(HealthAllianceError):
    """The gate does not let this version become champion."""

    exit_code = 12


class TrainingUnderWayError(HealthAllianceError):
    """Another training run is going on."""

    exit_code = 13


class LeakageError(HealthAllianceError):
    """A feature knows what only the future can tell."""

    exit_code = 14


class UnknownRecordError(HealthAllianceError):
    """There is no such score."""

    exit_code = 16


class SnapshotGoneError(HealthAllianceError):
    """The topics no longer hold what the snapshot was read from."""

    exit_code = 15


class AccessRefusedError(HealthAllianceError):
    """Kafka does not let this user in, or not do this."""

    exit_code = 17
