"""Nothing that scores can run what a file says: no unpickling, by nobody's code, in a process that loads a model."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.source_code import Module, module, product_modules
from tests.unit.connectors.test_models import forest_file

_UNPICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "torch"}
# Only a training job gives the trees' fitting to others, and loads no file by it.
_JOBLIB = {"model_training/backends.py"}


def unpickling_in(one: Module) -> Iterator[str]:
    """Find imports of what unpickles, and calls that may."""
    for _, node in one.nodes():
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            roots = {name.partition(".")[0] for name in names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom):
                roots = {str(node.module).partition(".")[0]}
                names = [f"{node.module}.{name}" for name in names]
            if roots & _UNPICKLES or ("joblib" in roots and one.path not in _JOBLIB):
                yield f"{one.path} {names}"
            if any(name.startswith("mlflow") and "pyfunc" in name for name in names):
                yield f"{one.path} {names}"
        if isinstance(node, ast.Attribute) and node.attr == "load_model" and "mlflow" in ast.unparse(node):
            yield f"{one.path} {ast.unparse(node)}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield f"{one.path} allow_pickle"


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from dill import load", "import joblib", "from mlflow import pyfunc", "import mlflow.pyfunc",
     "mlflow.sklearn.load_model(x)", "np.load(f, allow_pickle=True)"],
)  # fmt: skip
def test_the_scan_finds_what_unpickles(source: str) -> None:
    assert list(unpickling_in(module("x.py", source)))


def test_no_module_of_the_product_unpickles() -> None:
    assert [found for one in product_modules() for found in unpickling_in(one)] == []


_SCORES = """
import sys
seen = []
sys.addaudithook(lambda name, given: seen.append([str(one) for one in given]) if name == "pickle.find_class" else None)
import json
import {module}
import streams.scoring
from pathlib import Path
from connectors.models import load_model
from schemas.errors import ModelRefusedError
from schemas.features import FEATURE_NAMES, Features
model = load_model(Path(sys.argv[1]))
streams.scoring.predict(Features(*[1.0] * len(FEATURE_NAMES)), model)
try:
    load_model(Path(sys.argv[2]))
    refused = False
except ModelRefusedError:
    refused = True
loaded = sorted({{name.partition(".")[0] for name in sys.modules}} & {{"mlflow", "dill", "sklearn", "joblib"}})
print(json.dumps([seen, refused, loaded]))
"""

# pyarrow imports cloudpickle where it is installed, and nothing calls it.
_WRITES = "cbuiltins\neval\n(S'open({marker!r}, \"w\")'\ntR."


@pytest.mark.parametrize("process", ["streams.worker", "healthalliance.api.server", "healthalliance.explaining"])
def test_a_process_that_scores_unpickles_nothing_and_has_nothing_at_hand_that_would(
    process: str, tmp_path: Path
) -> None:
    good, bad, marker = tmp_path / "good.onnx", tmp_path / "bad.onnx", tmp_path / "marker"
    good.write_bytes(forest_file())
    bad.write_text(_WRITES.format(marker=str(marker)))
    done = subprocess.run(
        [sys.executable, "-c", _SCORES.format(module=process), str(good), str(bad)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], True, []]
    assert not marker.exists()


def test_the_pickle_that_is_refused_does_harm_where_it_is_unpickled(tmp_path: Path) -> None:
    """So that the test above cannot pass by a harmless file; it is unpickled in a process of its own."""
    bad, marker = tmp_path / "bad.onnx", tmp_path / "marker"
    bad.write_text(_WRITES.format(marker=str(marker)))
    subprocess.run([sys.executable, "-c", f"import pickle; pickle.load(open({str(bad)!r}, 'rb'))"], check=True)
    assert marker.exists()
