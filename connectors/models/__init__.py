"""Models: one ONNX file each, kept in the MLflow registry, loaded without MLflow."""

from __future__ import annotations

from connectors.models.champion import champion_version, load, load_champion, load_last_good, load_registered
from connectors.models.onnx_file import OnnxModel, from_bytes, load_model, sha256
from connectors.models.registering import Candidate, register
from connectors.models.versions import set_alias

__all__ = [
    "Candidate",
    "OnnxModel",
    "champion_version",
    "from_bytes",
    "load",
    "load_champion",
    "load_last_good",
    "load_model",
    "load_registered",
    "register",
    "set_alias",
    "sha256",
]
