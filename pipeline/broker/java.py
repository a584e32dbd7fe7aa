"""Finding Java and Maven on this machine."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pipeline.broker.errors import BrokerError

MIN_JAVA = 17  # Apache Kafka 4.0 upgrade notes: brokers need Java 17
_TIMEOUT_S = 30.0


class JavaUnavailableError(BrokerError):
    """No Java or Maven that could run the broker; the in-memory broker does without."""


@dataclass(frozen=True)
class Java:
    """A Java runtime: where it is, its feature release, and what it says of itself."""

    path: str
    major: int
    banner: str


def _find(program: str, home_variable: str) -> str | None:
    home = os.environ.get(home_variable)
    if home and (path := shutil.which(program, path=str(Path(home) / "bin"))):
        return path
    return shutil.which(program)


def find_java() -> Java:
    """The Java of JAVA_HOME, else of PATH. Raises JavaUnavailableError when there is none that is new enough."""
    path = _find("java", "JAVA_HOME")
    if path is None:
        raise JavaUnavailableError(f"java is not found; install Java {MIN_JAVA} or newer, or use the in-memory broker")
    try:
        done = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JavaUnavailableError(f"{path} does not run: {error}; install Java {MIN_JAVA} or newer") from None
    return _read_banner(path, done.stderr + done.stdout)


def _read_banner(path: str, banner: str) -> Java:
    found = re.search(r'version "(?:1\.)?(\d+)', banner)
    if found is None:
        line = " ".join(banner.split())[:200]
        raise JavaUnavailableError(f"{path} does not tell its version ({line}); install Java {MIN_JAVA} or newer")
    major = int(found.group(1))
    if major < MIN_JAVA:
        raise JavaUnavailableError(f"{path} is Java {major}, too old for Kafka; install Java {MIN_JAVA} or newer")
    return Java(path, major, banner)


def find_maven() -> str:
    """Maven's command. Raises JavaUnavailableError when there is none."""
    path = _find("mvn", "MAVEN_HOME")
    if path is None:
        raise JavaUnavailableError("mvn is not found; install Maven to fetch Kafka's jars, or use the in-memory broker")
    return path
