"""The settings: one reader of the environment, and an example file that says what it says."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from connectors.settings import Settings
from schemas.institutions import institutions
from tests.contract.source_code import ROOT, Module, module, product_modules
from tests.documents import coded, rows, section

EXAMPLE = ROOT / ".env.example"


_COMPOSE_ONLY = "# For docker-compose.yml alone:\n"


def example() -> dict[str, tuple[str, str]]:
    """Read the example file's settings: name → (the comment above it, its value)."""
    return _variables(EXAMPLE.read_text("utf-8").partition(_COMPOSE_ONLY)[0])


def compose_example() -> dict[str, tuple[str, str]]:
    """Read what the example file has for docker-compose.yml alone."""
    return _variables(EXAMPLE.read_text("utf-8").partition(_COMPOSE_ONLY)[2])


def _variables(text: str) -> dict[str, tuple[str, str]]:
    found, comment = {}, ""
    for line in text.splitlines():
        if line.startswith("#"):
            comment = line.removeprefix("# ")
        elif line:
            name, _, value = line.partition("=")
            found[name], comment = (comment, value), ""
    return found


def shown(field: FieldInfo) -> str:
    default = field.default
    if field.annotation == dict[str, str]:
        return ""
    return default.get_secret_value() if isinstance(default, SecretStr) else str(default)


def test_the_example_lists_every_setting_in_order_with_its_description_and_default() -> None:
    expected = {
        variable: (field.description if variable == variables(name, field)[0] else "", shown(field))
        for name, field in Settings.model_fields.items()
        for variable in variables(name, field)
    }
    assert list(example().items()) == list(expected.items())


def test_the_operations_page_has_the_same_table() -> None:
    told = [(coded(row[0])[0], *coded(row[1]), row[2]) for row in rows(section("docs/operations.md", "Settings"))]
    expected = [(name, *filter(None, [default]), comment) for name, (comment, default) in example().items()]
    assert told == expected


def variables(name: str, field: FieldInfo) -> list[str]:
    """Name a setting's variables: an institution's own setting has one for each."""
    if field.annotation == dict[str, str]:
        return [f"{name}_{id_}".upper() for id_ in institutions()]
    return [name.upper()]


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_example_as_it_stands_gives_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, field in Settings.model_fields.items():
        for variable in variables(name, field):
            monkeypatch.delenv(variable, raising=False)
    assert Settings(_env_file=EXAMPLE) == Settings(_env_file=None)


def test_the_example_holds_no_secret() -> None:
    secret = {name for name, field in Settings.model_fields.items() if field.annotation is SecretStr}
    assert secret == {
        "pseudonym_key", "pseudonym_key_previous", "kafka_sasl_password", "model_signing_key",
        "alert_webhook_url", "alert_webhook_secret", "alert_slack_url", "alert_smtp_password",
    }  # fmt: skip
    values = example()
    assert {values[name.upper()][1] for name in secret} == {""}
    assert [name for name, (_, value) in values.items() if "@" in value] == []  # no user:password@host


# --- who reads the environment

# Place → why it may.
ALLOWED = {
    "connectors/models/mlflow_quietly.py open_store": "MLflow takes these from the environment only; a caller's stay",
    "connectors/models/champion.py _download": "composes a child process's environment",
    "healthalliance/federating.py _site": "composes a child process's environment",
    "connectors/dvc.py _run": "composes a child process's environment",
    "healthalliance/workers.py _start": "composes a child process's environment",
    "healthalliance/api_process.py __enter__": "composes a child process's environment",
    "healthalliance/local_stack/java.py find_java": "JAVA_HOME is Java's own convention",
    "healthalliance/local_stack/java.py _cache": "XDG_CACHE_HOME is the desktop's own convention",
    "healthalliance/local_stack/java.py _maven_environment": "composes a child process's environment",
}

_NAMES = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv", "load_dotenv", "dotenv_values"}


def environment_uses(one: Module) -> Iterator[str]:
    """Find each place that touches the process's environment, as `path function`."""
    for scope, node in one.nodes():
        attribute = isinstance(node, ast.Attribute) and node.attr in _NAMES
        imported = isinstance(node, ast.ImportFrom) and any(alias.name in _NAMES for alias in node.names)
        if attribute or imported or (isinstance(node, ast.Name) and node.id in _NAMES):
            yield f"{one.path} {scope}"


@pytest.mark.parametrize(
    "source", ["def f(): return os.environ['A']", "def f(): os.getenv('A')", "def f():\n from os import environ"]
)
def test_the_scan_finds_every_way_to_the_environment(source: str) -> None:
    assert list(environment_uses(module("x.py", source))) == ["x.py f"]


def test_nobody_but_the_settings_reads_the_environment() -> None:
    found = {place for one in product_modules() for place in environment_uses(one)}
    assert found == ALLOWED.keys()
