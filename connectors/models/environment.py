"""What is installed, as it will be needed to make a model again."""

from __future__ import annotations

import platform
from importlib.metadata import distributions, version

# What a model's numbers depend on.
_DECISIVE = ("healthalliance", "numpy", "scikit-learn", "scipy", "joblib", "onnx", "onnxruntime", "pyarrow", "mlflow")


def environment() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a model's numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _DECISIVE}}


def requirements() -> str:
    """List everything installed as a requirements file, a line each, by name."""
    installed = {one.metadata["Name"].lower(): f"{one.metadata['Name']}=={one.version}" for one in distributions()}
    return "".join(f"{installed[name]}\n" for name in sorted(installed))
