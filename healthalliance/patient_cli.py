"""The commands for a patient's rights: `erase`, `verify-erasure`, `export-patient`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from connectors.settings import Settings, load_settings
from healthalliance.console import Json, connected, err, out, print_json
from schemas.audit import Action
from schemas.erasure import Future
from schemas.errors import ConfigurationError
from schemas.institutions import institution as find_institution

Institution = Annotated[str, typer.Option("--institution", "-i", help="Whose patient it is.")]


def erase(
    institution: Institution,
    patient: Annotated[
        list[str] | None, typer.Option("--patient", help="The institution's id; can be repeated.")
    ] = None,
    patients: Annotated[Path | None, typer.Option("--patients", help="A file of ids, one a line.")] = None,
    future: Annotated[
        Future | None, typer.Option(help="Of later events; else as before, at first they are accepted.")
    ] = None,
    snapshots: Annotated[
        list[Path] | None, typer.Option(help="A folder with exported snapshots, beside DATA_DIR; can be repeated.")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where the certificates go.")] = Path("certificates"),
    timeout_s: Annotated[float, typer.Option(min=1, help="Seconds to wait while workers make no progress.")] = 120.0,
    as_json: Json = False,
) -> None:
    """Erase patients from every store, and write a signed certificate for each. Workers must run."""
    from healthalliance.auditing import noted_change
    from healthalliance.erasing import Order, signing_key
    from healthalliance.erasing import erase as run_erase

    ids = [*(patient or ()), *(_lines(patients) if patients else ())]
    if not ids:
        raise typer.BadParameter("name a patient.", param_hint="--patient")
    settings = connected()
    signing_key(settings)
    order = Order(institution, ids, future, tuple(snapshots or ()), timeout_s)
    with noted_change(settings, Action.ERASE, institution, _subjects(settings, institution, ids)):
        certificates = run_erase(settings, order, lambda step: None if as_json else err.print(f"[dim]{step}[/]"))
    paths = [_write(folder, one) for one in certificates]
    if as_json:
        print_json(certificates)
        return
    for one, path in zip(certificates, paths, strict=True):
        out.print(f"{_told(one)} {path}", markup=False, highlight=False, soft_wrap=True)


def _subjects(settings: Settings, institution: str, ids: Sequence[str]) -> list[str]:
    """Name patients as the audit log does."""
    from connectors.pseudonym_keys import read_keys

    keys = read_keys(settings, [find_institution(institution).id])[institution].keys
    return [f"patient:{keys.patient_pseudonym(one)}" for one in ids]


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read ({type(error).__name__}).") from error


def _write(folder: Path, certificate: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    time = certificate["finished_at"].replace(":", "").replace("-", "").partition(".")[0]
    path = folder / f"erasure-{certificate['institution']}-{certificate['patient_pseudonym']}-{time}Z.json"
    path.write_text(json.dumps(certificate, indent=2) + "\n", "utf-8")
    return path


def _told(certificate: dict[str, Any]) -> str:
    if certificate["nothing_found"]:
        return "Nothing found, nothing to do:"
    removed, models = sum(one["removed"] for one in certificate["stores"]), len(certificate["models"])
    return f"Erased: {removed} rows and records; {models} models may have learned from them:"


def verify_erasure(
    file: Annotated[Path, typer.Argument(help="A certificate.")],
    key: Annotated[
        Path | None, typer.Option(help="The public key, PEM; else that of ERASURE_KEY_LOCATION, or the local stack's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell whether a certificate of erasure is as it was signed; exit with 1 if not."""
    from healthalliance.erasing import signing_key
    from healthalliance.local_stack import with_erasure_key
    from schemas.erasure import is_genuine, key_id, public_key

    try:
        document = json.loads(file.read_text("utf-8"))
        verifying = public_key(key.read_bytes()) if key else signing_key(with_erasure_key(load_settings())).public_key()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"A file cannot be read ({type(error).__name__}).") from error
    genuine = is_genuine(document, verifying)
    if as_json:
        print_json({"genuine": genuine, "key": key_id(verifying)})
    else:
        out.print(f"{'Genuine' if genuine else 'NOT genuine'}, by the key {key_id(verifying)}.", highlight=False)
    raise typer.Exit(0 if genuine else 1)


def export_patient(
    institution: Institution,
    patient: Annotated[str, typer.Option("--patient", help="The institution's id.")],
    to: Annotated[Path | None, typer.Option("--out", help="Write it here instead of printing it.")] = None,
    as_json: Json = False,
) -> None:
    """Write all that is stored of a patient, readable, as JSON."""
    from healthalliance.auditing import note_access
    from healthalliance.patient_export import export_patient as run_export
    from healthalliance.patient_export import write_export

    settings = connected()
    note_access(settings, Action.EXPORT_PATIENT, institution, _subjects(settings, institution, [patient]))
    document = run_export(settings, institution, patient)
    if to is None:
        print_json(document)
        return
    write_export(json.dumps(document, default=str, indent=2), to)
    if as_json:
        print_json({"path": str(to), "scores": len(document["risk_assessments"].get("entry", ()))})
    else:
        out.print(f"All that is stored of this patient is in {to}.", highlight=False)
