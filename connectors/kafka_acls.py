"""The access rules that a broker keeps, read and changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from connectors.kafka import Admin
from connectors.settings import Settings
from schemas.access import Rule, is_own, is_own_resource
from schemas.errors import AccessRefusedError

_TIMEOUT_S = 15.0
_USER = "User:"


@dataclass(frozen=True, slots=True)
class Kept:
    """What a broker keeps: rules that allow, and in words those that are nobody's here but concern these topics."""

    rules: tuple[Rule, ...]
    others: tuple[str, ...]


def kept_rules(settings: Settings) -> Kept:
    """Read all rules; raise UnavailableError, or AccessRefusedError where the user may not or none are kept."""
    admin = Admin(settings)
    _require_right(admin)
    anything: Any = None  # the stubs know no filter without a name
    everything = AclBindingFilter(
        ResourceType.ANY, anything, ResourcePatternType.ANY, anything, anything, AclOperation.ANY, AclPermissionType.ANY
    )
    future = admin.client.describe_acls(everything, request_timeout=_TIMEOUT_S)
    found: list[Any] = admin.answer(future, "list its access rules")
    ours = [one for one in found if _allows(one) and is_own(_user(one))]
    others = [_words(one) for one in found if one not in ours and _concerns(one)]
    return Kept(tuple(sorted(map(_rule, ours))), tuple(sorted(others)))


def _require_right(admin: Admin) -> None:
    """Raise AccessRefusedError where the user may not list rules: the client says then that there are none."""
    future = admin.client.describe_cluster(include_authorized_operations=True, request_timeout=_TIMEOUT_S)
    may = admin.answer(future, "describe the cluster").authorized_operations or []
    if AclOperation.DESCRIBE not in may:
        raise AccessRefusedError("Kafka does not show its access rules to this user; an administrator may see them.")


def add_rules(settings: Settings, rules: Iterable[Rule]) -> None:
    """Have the broker keep these rules too; raise as `kept_rules`."""
    bindings = [_binding(rule) for rule in rules]
    if bindings:
        admin = Admin(settings)
        for future in admin.client.create_acls(bindings, request_timeout=_TIMEOUT_S).values():
            admin.answer(future, "take an access rule")


def remove_rules(settings: Settings, rules: Iterable[Rule]) -> None:
    """Have the broker forget exactly these rules; raise as `kept_rules`."""
    filters = [_filter(rule) for rule in rules]
    if filters:
        admin = Admin(settings)
        for future in admin.client.delete_acls(filters, request_timeout=_TIMEOUT_S).values():
            admin.answer(future, "remove an access rule")


def _allows(binding: Any) -> bool:
    return bool(binding.permission_type == AclPermissionType.ALLOW)


def _user(binding: Any) -> str:
    return str(binding.principal).removeprefix(_USER)


def _concerns(binding: Any) -> bool:
    return is_own(_user(binding)) or is_own_resource(
        binding.restype.name.capitalize(), binding.name, binding.resource_pattern_type.name.capitalize()
    )


def _words(binding: Any) -> str:
    return f"{binding.permission_type.name.capitalize()} {_rule(binding)}"


def _rule(binding: Any) -> Rule:
    return Rule(
        _user(binding),
        binding.operation.name.capitalize(),
        binding.restype.name.capitalize(),
        binding.name,
        binding.resource_pattern_type.name.capitalize(),
        binding.host,
    )


def _binding(rule: Rule) -> AclBinding:
    return AclBinding(*_fields(rule))


def _filter(rule: Rule) -> AclBindingFilter:
    return AclBindingFilter(*_fields(rule))


def _fields(
    rule: Rule,
) -> tuple[ResourceType, str, ResourcePatternType, str, str, AclOperation, AclPermissionType]:
    return (
        ResourceType[rule.resource.upper()],
        rule.name,
        ResourcePatternType[rule.pattern.upper()],
        f"{_USER}{rule.user}",
        rule.host,
        AclOperation[rule.operation.upper()],
        AclPermissionType.ALLOW,
    )
