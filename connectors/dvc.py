"""DVC: keep a file's versions beside a small file that names them, and push them to a remote."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from schemas.errors import ConfigurationError, UnavailableError

_REMOTE = "healthalliance"
_TIMEOUT_S = 3600.0
_NOBODY_IS_TOLD = {"DVC_NO_ANALYTICS": "true", "DVC_STUDIO_OFFLINE": "true"}


def track(path: Path) -> Path:
    """Take a file under DVC's control and return the small file that stands for it, to be kept in a repository.

    A folder that lies in no DVC repository becomes one, without Git. Raises ConfigurationError where DVC refuses.
    """
    if not _is_tracked(path.parent):
        _run(path.parent, "init", "--no-scm", "--quiet")
    _run(path.parent, "add", "--quiet", path.name)
    return path.with_name(f"{path.name}.dvc")


def push(path: Path, remote_url: str) -> None:
    """Copy a tracked file to a remote, e.g. `s3://bucket/prefix`.

    The AWS variables of the environment say with which credentials, and AWS_ENDPOINT_URL which S3 server, if it is
    not Amazon's. Raises UnavailableError where the remote does not take it.
    """
    folder = path.parent
    _run(folder, "remote", "add", "--local", "--force", "--quiet", _REMOTE, remote_url)
    try:
        _run(folder, "push", "--remote", _REMOTE, f"{path.name}.dvc")
    except ConfigurationError as error:
        raise UnavailableError(f"The remote at DVC_REMOTE_URL does not take {path.name}: {error}") from error


def _is_tracked(folder: Path) -> bool:
    return any((parent / ".dvc").is_dir() for parent in (folder.resolve(), *folder.resolve().parents))


def _run(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **_NOBODY_IS_TOLD},  # the AWS variables, and no word to DVC's makers
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError(f"DVC did not end within {_TIMEOUT_S:.0f} s.") from error
    if done.returncode:
        lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        said = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")] or lines[-1:]
        raise ConfigurationError(f"DVC says: {said[0] if said else 'nothing'}")
