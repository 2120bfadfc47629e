"""The commands for registered models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from healthalliance.console import Json, connected, err, out, print_json
from schemas.audit import EVERYBODY, Action

if TYPE_CHECKING:
    from connectors.models.versions import Version
    from connectors.settings import Settings
    from model_training.measures import Estimate
    from model_training.promotion import Comparison

app = typer.Typer(no_args_is_help=True, help="Registered models: which there are, who scores, who did, who should.")

Wanted = Annotated[str, typer.Argument(help="A version's number, or an alias such as champion or challenger.")]

_MEASURING = ("kafka", "registry", "mlflow")


@app.command("list")
def list_versions(as_json: Json = False) -> None:
    """List the registered versions, the newest first."""
    from connectors.models.versions import versions

    found = [_document(one) for one in versions(connected("mlflow"))]
    if as_json:
        print_json(found)
        return
    table = Table("version", "aliases", "trained", "on stays", "AUROC", "Brier", "gate", "digest", pad_edge=False)
    for one in found:
        numbers = (_shown(one["auroc"], ".3f"), _shown(one["brier"], ".4f"))
        trained, gate = one["trained_at"].strftime("%Y-%m-%d %H:%M"), _gate(one)
        aliases = ", ".join(one["aliases"])
        table.add_row(
            one["version"], aliases, trained, _shown(one["stays"], ",d"), *numbers, gate, one["digest"][:12] + "…"
        )
    out.print(table if found else "No model is registered yet; `healthalliance train` makes one.")


@app.command()
def promote(
    version: Wanted,
    force: Annotated[bool, typer.Option("--force", help="Leave the gate out.")] = False,
    as_json: Json = False,
) -> None:
    """Make a version champion, if the gate passes it on the held-out stays of the feature topics as they are now."""
    from healthalliance.auditing import noted_change
    from model_training.promotion import promote as make_champion

    settings = connected("mlflow", "postgres") if force else connected(*_MEASURING, "postgres")
    with noted_change(settings, Action.PROMOTE_MODEL, EVERYBODY, [_subject(settings, version)]), _reading() as on_read:
        done = make_champion(settings, version, force=force, on_read=on_read)
    if as_json:
        print_json({**asdict(done.moved), "gate": "left out" if done.verdict is None else "passed"})
    else:
        out.print(f"Version {done.moved.now} scores now; {_before(done.moved.was)}. Workers swap within MODEL_POLL_S.")


@app.command()
def rollback(as_json: Json = False) -> None:
    """Go back to the champion before the one of now; again, and it goes one further back."""
    from connectors.models.versions import roll_back
    from healthalliance.auditing import noted_change

    settings = connected("mlflow", "postgres")
    with noted_change(settings, Action.ROLL_BACK_MODEL, EVERYBODY, [_subject(settings)]):
        moved = roll_back(settings)
    if as_json:
        print_json(asdict(moved))
    else:
        out.print(f"Back from version {moved.was} to version {moved.now}. Workers swap within MODEL_POLL_S.")


@app.command()
def sign(
    version: Annotated[str, typer.Argument(help="A version's number.")],
    as_json: Json = False,
) -> None:
    """Sign a version that was registered without MODEL_SIGNING_KEY, or with another one."""
    from connectors.models.versions import find_version, sign_version
    from healthalliance.auditing import noted_change

    settings = connected("mlflow", "postgres")
    found = find_version(settings, version).version
    with noted_change(settings, Action.SIGN_MODEL, EVERYBODY, [_subject(settings, found)]):
        digest = sign_version(settings, found)
    if as_json:
        print_json({"version": found, "digest": digest})
    else:
        out.print(f"Version {found} is signed. Workers that refused it try again within five minutes.")


@app.command()
def key(as_json: Json = False) -> None:
    """Make a key that models are signed with: only training gets it, all others get its public half."""
    from connectors.models.signing import new_key_pair

    signing, public = new_key_pair()
    if as_json:
        print_json({"MODEL_SIGNING_KEY": signing, "MODEL_PUBLIC_KEYS": public})
        return
    out.print(f"MODEL_SIGNING_KEY={signing}", highlight=False, soft_wrap=True)
    out.print(f"MODEL_PUBLIC_KEYS={public}", highlight=False, soft_wrap=True)
    out.print("To rotate: set the new public key beside the old one, separated by a comma; later sign and remove.")


@app.command()
def compare(first: Wanted, second: Wanted, as_json: Json = False) -> None:
    """Measure two versions on the held-out stays of the feature topics as they are now."""
    from model_training.promotion import compare as compare_versions

    with _reading() as on_read:
        found = compare_versions(connected(*_MEASURING), first, second, on_read=on_read)
    if as_json:
        print_json(asdict(found))
        return
    out.print(_comparison(found))
    for remark in found.remarks:
        out.print(remark, markup=False, highlight=False, soft_wrap=True)


def _subject(settings: Settings, version: str | None = None) -> str:
    return f"model:{settings.model_name}" + (f"/{version}" if version else "")


@contextmanager
def _reading() -> Iterator[Callable[[float], None]]:
    with err.status("reading the feature topics") as status:
        yield lambda share: status.update(f"reading the feature topics {share:.0%}")


def _document(one: Version) -> dict[str, Any]:
    stays = one.parameters.get("fit_stays")
    return {
        "version": one.version,
        "aliases": list(one.aliases),
        "trained_at": one.registered_at,
        "stays": None if stays is None else int(stays),
        "auroc": one.metrics.get("auroc"),
        "brier": one.metrics.get("brier"),
        "digest": one.digest,
        "gate": one.tags.get("gate"),
        "forced": one.tags.get("forced") == "true",
    }


def _gate(one: dict[str, Any]) -> str:
    if one["forced"]:
        return "forced"
    return "" if one["gate"] is None else "passed" if one["gate"] == "passed" else "held back"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _before(was: str | None) -> str:
    return "none did before" if was is None else f"version {was} did before"


def _comparison(found: Comparison) -> Table:
    one, other, apart = found.first_evaluation, found.second_evaluation, found.difference
    title = f"On {found.stays:,} held-out stays, {found.readmissions:,} of them readmitted"
    table = Table("", f"version {found.first}", f"version {found.second}", "difference (95 % interval)", title=title)
    table.add_row("AUROC", f"{one.auroc:.4f}", f"{other.auroc:.4f}", _estimate(apart.auroc))
    table.add_row("Brier score", f"{one.brier:.4f}", f"{other.brier:.4f}", _estimate(apart.brier))
    table.add_row("AUPRC", f"{one.auprc:.4f}", f"{other.auprc:.4f}", f"{other.auprc - one.auprc:+.4f}")
    slopes = one.calibration_slope, other.calibration_slope
    table.add_row("calibration slope", *(f"{slope:.2f}" for slope in slopes), f"{slopes[1] - slopes[0]:+.2f}")
    ratios = one.observed_to_expected, other.observed_to_expected
    table.add_row("observed / expected", *(f"{ratio:.2f}" for ratio in ratios), f"{ratios[1] - ratios[0]:+.2f}")
    return table


def _estimate(one: Estimate) -> str:
    return f"{one.value:+.4f} ({one.interval.low:+.4f} to {one.interval.high:+.4f})"
