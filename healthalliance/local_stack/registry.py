"""Apicurio as the schema registry, spoken to by Confluent's API; its schemas are kept in an H2 file."""

from __future__ import annotations

import http.client
import shutil
from functools import partial
from pathlib import Path

from healthalliance.local_stack.java import Jars
from healthalliance.local_stack.processes import Launch, marker
from healthalliance.local_stack.records import Part

_API = "/apis/ccompat/v7"


def prepare(data_dir: Path, jars: Jars, port: int) -> Launch:
    """Say how to start the registry."""
    folder = data_dir / Part.REGISTRY
    scratch = folder / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    (jar,) = jars.registry.glob("*-runner.jar")
    return Launch(
        part=Part.REGISTRY,
        command=(
            str(jars.java),
            *_options(folder, scratch, port),
            f"-D{marker(Part.REGISTRY, data_dir)}",
            "-jar",
            str(jar),
        ),
        folder=folder,
        log=data_dir / "logs" / f"{Part.REGISTRY}.log",
        ports=(port,),
        address=f"http://127.0.0.1:{port}{_API}",
        answers=partial(_answers, port),
    )


def _options(folder: Path, scratch: Path, port: int) -> tuple[str, ...]:
    properties = {
        "quarkus.http.host": "127.0.0.1",
        "quarkus.http.port": port,
        "quarkus.http.access-log.enabled": "false",
        # A schema id that a message carries must still be there after a crash: write at once.
        "apicurio.datasource.url": f"jdbc:h2:file:{folder / 'schemas'};WRITE_DELAY=0",
        "apicurio.datasource.jdbc.initial-size": 2,
        "apicurio.datasource.jdbc.min-size": 2,
        "java.io.tmpdir": scratch,
        "java.net.preferIPv4Stack": "true",
        "java.awt.headless": "true",
    }
    # It lives on few requests, so a quick start counts for more than optimized code.
    jvm = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
    return (*jvm, *(f"-D{key}={value}" for key, value in properties.items()))


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", f"{_API}/subjects")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
