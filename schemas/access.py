"""Who may do what in Kafka. What no rule allows is forbidden; terraform/access.tf says the same for AWS."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from schemas.errors import ConfigurationError
from schemas.institutions import institutions
from schemas.topics import TopicFamily, topic_name, topic_names

WORKER_GROUP = "healthalliance-worker"  # by default, CONSUMER_GROUP
RANGES_GROUP = "healthalliance-ranges"  # the client demands one; nothing is committed under it
_OURS = "healthalliance"  # names of our own groups begin so, those of institutions with their ids

READ, WRITE, DESCRIBE = "Read", "Write", "Describe"
TOPIC, GROUP = "Topic", "Group"
LITERAL, PREFIXED = "Literal", "Prefixed"

WORKER, API, TRAINER, OPERATOR = "worker", "api", "trainer", "operator"
ADMIN = "admin"  # whom no rule binds: of the local stack and of tests; elsewhere whoever runs the brokers


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """A user may do an operation on the topic or group of that name, or on all whose names begin so (Prefixed).

    The words are Kafka's. Reading and writing include describing.
    """

    user: str
    operation: str
    resource: str
    name: str
    pattern: str = LITERAL
    host: str = "*"

    def __str__(self) -> str:
        begin = "beginning with " if self.pattern == PREFIXED else ""
        place = "" if self.host == "*" else f" from {self.host}"
        return f"{self.user}: {self.operation} {self.resource} {begin}{self.name}{place}"


def institution_user(id_: str) -> str:
    """Name the user of a hospital's own systems.

    >>> institution_user("dkfz")
    'institution-dkfz'
    """
    return f"institution-{id_}"


def alerting_user(id_: str) -> str:
    """Name the user of an institution's alerting consumer."""
    return f"alerting-{id_}"


def site_user(id_: str) -> str:
    """Name the user that trains on an institution's own features alone."""
    return f"trainer-{id_}"


def alerts_groups(id_: str) -> str:
    """Return what the names of the consumer groups begin with that alert of an institution's scores."""
    return f"{_OURS}-alerts.{id_}."


def rules(ids: Collection[str] | None = None, worker_group: str = WORKER_GROUP) -> list[Rule]:
    """List all rules of the given institutions, by default of all there are.

    Raises ConfigurationError for an institution whose groups' names would be our own.
    """
    chosen = list(institutions()) if ids is None else list(ids)
    for id_ in chosen:
        if id_.startswith(_OURS):
            raise ConfigurationError(f"schemas/institutions.yaml: an institution's id does not begin with {_OURS}.")
    found = [rule for id_ in chosen for rule in _institution_rules(id_)]
    return [*found, *_program_rules(chosen, worker_group)]


def _institution_rules(id_: str) -> Iterator[Rule]:
    hospital, alerting, site = institution_user(id_), alerting_user(id_), site_user(id_)
    yield from _on_topics(hospital, WRITE, [TopicFamily.ENCOUNTERS], [id_])
    yield from _on_topics(hospital, READ, [TopicFamily.RISK, TopicFamily.REJECTED], [id_])
    yield Rule(hospital, READ, GROUP, f"{id_}.", PREFIXED)
    yield from _on_topics(alerting, READ, [TopicFamily.RISK], [id_])
    yield Rule(alerting, READ, GROUP, alerts_groups(id_), PREFIXED)
    yield from _on_topics(site, READ, [TopicFamily.FEATURES], [id_])
    yield Rule(site, DESCRIBE, GROUP, RANGES_GROUP)


def _program_rules(ids: Sequence[str], worker_group: str) -> Iterator[Rule]:
    yield from _on_topics(WORKER, READ, [TopicFamily.ENCOUNTERS], ids)
    yield from _on_topics(WORKER, WRITE, [TopicFamily.RISK, TopicFamily.FEATURES, TopicFamily.REJECTED], ids)
    yield Rule(WORKER, READ, GROUP, worker_group)
    yield from _on_topics(TRAINER, READ, [TopicFamily.FEATURES], ids)
    yield Rule(TRAINER, DESCRIBE, GROUP, RANGES_GROUP)
    yield from _on_topics(API, WRITE, [TopicFamily.ENCOUNTERS], ids)
    # People who look, replay, rebuild, send rejected events in again and publish files.
    yield from _on_topics(OPERATOR, READ, list(TopicFamily), ids)
    yield from _on_topics(OPERATOR, WRITE, [TopicFamily.ENCOUNTERS], ids)
    yield Rule(OPERATOR, DESCRIBE, GROUP, RANGES_GROUP)
    yield Rule(OPERATOR, DESCRIBE, GROUP, worker_group)


def _on_topics(user: str, operation: str, families: Iterable[TopicFamily], ids: Iterable[str]) -> Iterator[Rule]:
    topics = [topic_name(family, id_) for family in families for id_ in ids]
    return (Rule(user, operation, TOPIC, topic) for topic in topics)


def users(declared: Iterable[Rule]) -> list[str]:
    """List the users that rules name."""
    return sorted({rule.user for rule in declared})


def is_own(user: str) -> bool:
    """Tell whether a user is one of these, or was: an institution's that is no longer in the file."""
    begins = tuple(name("") for name in (institution_user, alerting_user, site_user))
    return user in (WORKER, API, TRAINER, OPERATOR) or user.startswith(begins)


def is_own_resource(resource: str, name: str, pattern: str) -> bool:
    """Tell whether a rule for this name reaches any of our topics, or our own groups."""
    own = {topic for family in TopicFamily for topic in topic_names(family)} if resource == TOPIC else {WORKER_GROUP}
    if resource not in (TOPIC, GROUP):
        return False
    return name == "*" or name in own or (pattern == PREFIXED and any(one.startswith(name) for one in own))


@dataclass(frozen=True, slots=True)
class Changes:
    """What makes the broker's rules the declared ones: rules to add, and rules of our own users to remove."""

    add: tuple[Rule, ...]
    remove: tuple[Rule, ...]


def changes(declared: Iterable[Rule], present: Iterable[Rule]) -> Changes:
    """Compare what is declared with what our own users may do on the broker; other users' rules are left alone.

    >>> found = changes([Rule("api", "Write", "Topic", "a")], [Rule("api", "Read", "Topic", "a")])
    >>> print(*found.add, *found.remove, sep="; ")
    api: Write Topic a; api: Read Topic a
    """
    wanted, there = set(declared), {rule for rule in present if is_own(rule.user)}
    return Changes(tuple(sorted(wanted - there)), tuple(sorted(there - wanted)))
