"""A model file, checked before anything is scored with it. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from schemas.errors import ConfigurationError, ModelRefusedError
from schemas.features import FEATURE_NAMES, FEATURE_SET
from schemas.model import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, Floats, ModelCard, probabilities


@dataclass(frozen=True)
class OnnxModel:
    """A loaded model (`schemas.model.Model`)."""

    name: str
    version: str
    digest: str
    card: ModelCard
    session: onnxruntime.InferenceSession = field(repr=False)
    registered_at: float | None = None

    def contributions(self, rows: NDArray[np.float32]) -> Floats:
        """Attribute rows [n, features]: the raw contributions [n, features]; a row's do not depend on the others."""
        (output,) = self.session.run([OUTPUT_NAME], {INPUT_NAME: rows})
        return np.asarray(output, dtype=np.float64)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def load_model(path: Path) -> OnnxModel:
    """Load a model file from outside the registry; its name is the file's, its version the digest's beginning.

    Raises ConfigurationError where there is no such file, ModelRefusedError for one that is no model of this code.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"The model {path} cannot be read: {error.strerror}.") from None
    return from_bytes(data, name=path.stem, version=sha256(data)[:12])


def from_bytes(
    data: bytes, *, name: str, version: str, digest: str | None = None, registered_at: float | None = None
) -> OnnxModel:
    """Load a model and warm it up.

    Raises ModelRefusedError unless it has the expected digest, if given, and this code's features, and gives
    probabilities.
    """
    actual = sha256(data)
    if digest is not None and actual != digest:
        raise ModelRefusedError(
            f"The file of {name} version {version} is not the one that was registered (SHA-256).", reason="digest"
        )
    session = _session(data, f"{name} version {version}")
    card = _card(session, f"{name} version {version}")
    model = OnnxModel(name, version, actual, card, session, registered_at)
    _warm_up(model)
    return model


def _warm_up(model: OnnxModel) -> None:
    rows = np.array([[0.0], [1.0], [100.0]], dtype=np.float32).repeat(len(FEATURE_NAMES), axis=1)
    try:
        probabilities(model, rows)
    except Exception as error:  # ONNX runtime's errors share no base class
        raise ModelRefusedError(f"{model.name} version {model.version} does not score.", reason="fails") from error


def _session(data: bytes, model: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a batch is small: threads would cost more than they save
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # it keeps what the largest batch needed
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX runtime's errors share no base class
        raise ModelRefusedError(f"{model} is not a readable ONNX file.", reason="unreadable") from error
    shape = [None, len(FEATURE_NAMES)]
    if not _is(session.get_inputs(), INPUT_NAME, shape) or not _is(session.get_outputs(), OUTPUT_NAME, shape):
        raise ModelRefusedError(
            f"{model} does not turn {len(FEATURE_NAMES)} features into their contributions.", reason="signature"
        )
    return session


def _is(arguments: list[onnxruntime.NodeArg], name: str, shape: list[int | None]) -> bool:
    """Tell whether `name` is the only argument: float32 of this shape, where None stands for any name or size."""
    return [argument.name for argument in arguments] == [name] and all(
        argument.type == "tensor(float)"
        and len(argument.shape) == len(shape)
        and all(wanted is None or wanted == size for wanted, size in zip(shape, argument.shape, strict=True))
        for argument in arguments
    )


def _card(session: onnxruntime.InferenceSession, model: str) -> ModelCard:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "")
    try:
        card = msgspec.json.decode(text, type=ModelCard)
    except msgspec.DecodeError as error:
        raise ModelRefusedError(f"{model} carries no readable model card.", reason="card") from error
    if not card.matches_code():
        raise ModelRefusedError(
            f"{model} was made for other features than this code's feature set {FEATURE_SET}: train a new one.",
            reason="features",
        )
    return card
