"""Apache Kafka's jars: fetched once with Maven, checked against the sums that ship with this package."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.broker.errors import BrokerError
from pipeline.broker.java import find_maven
from pipeline.broker.process import GuardedProcess

KAFKA_VERSION = "4.4.0"
Progress = Callable[[str], None]

_HERE = Path(__file__).parent
_FETCH_TIMEOUT_S = 1800.0
_DOWNLOADED = re.compile(rb"Downloaded from [^\n]*/([^/\s]+\.jar) ")
_OFFLINE = re.compile("Unknown host|Could not transfer|Connection refused|timed out|No route to host|unreachable|offline mode")


def no_progress(_line: str) -> None:
    """Say nothing."""


def expected_sums() -> dict[str, str]:
    """SHA-256 (hex) of every jar by file name, from the SHA256SUMS of this package (format of sha256sum(1))."""
    lines = (_HERE / "SHA256SUMS").read_text(encoding="ascii").splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def jar_folder(cache_dir: Path) -> Path:
    """Where the jars are kept."""
    return cache_dir / f"kafka-{KAFKA_VERSION}"


def fault(folder: Path) -> str | None:
    """What is wrong with the jars in `folder`, in a few words; None when they are those that were recorded.

    Raises BrokerError when nobody may look.
    """
    try:
        return _fault(folder)
    except OSError as error:
        raise BrokerError(f"cannot read the cache folder {folder} (CALLSTREAM_CACHE_DIR): {error.strerror}") from None


def _fault(folder: Path) -> str | None:
    expected = expected_sums()
    present = {path.name for path in folder.glob("*.jar")}
    if odd := sorted(present ^ expected.keys()):
        return f"{odd[0]} is {'missing' if odd[0] in expected else 'not expected'}"
    for name, digest in expected.items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            return f"{name} has SHA-256 {found[:16]}…, not {digest[:16]}…"
    return None


def ensure_jars(cache_dir: Path, on_progress: Progress = no_progress) -> Path:
    """The folder with Kafka's jars, fetched when they are not there or not as recorded; safe against two processes at once.

    Raises:
        JavaUnavailableError: Maven is needed and not there.
        BrokerError: no network, or a jar is not the recorded one; nothing half-made stays behind.
    """
    folder = jar_folder(cache_dir)
    if fault(folder) is None:
        return folder
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BrokerError(f"cannot use the cache folder {cache_dir} (CALLSTREAM_CACHE_DIR): {error.strerror}") from None
    with _locked(cache_dir / f".kafka-{KAFKA_VERSION}.lock", on_progress):
        if fault(folder) is not None:  # another process may have fetched them meanwhile
            _fetch(folder, find_maven(), on_progress)
    return folder


@contextlib.contextmanager
def _locked(path: Path, on_progress: Progress) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_progress("waiting for another process that fetches Apache Kafka")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(folder: Path, maven: str, on_progress: Progress) -> None:
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    process = GuardedProcess(remove=work)
    try:
        _run_maven(process, maven, work, on_progress)
        jars = work / "jars"
        if wrong := fault(jars):
            raise BrokerError(
                f"Apache Kafka {KAFKA_VERSION} was refused: {wrong}; nothing was kept, "
                "remove that jar from Maven's local repository and try again"
            )
        if folder.exists():  # incomplete or altered, or it would not be fetched again
            folder.rename(work / "replaced")
        jars.rename(folder)
    finally:
        process.close()


def _run_maven(process: GuardedProcess, maven: str, work: Path, on_progress: Progress) -> None:
    output, jars, expected = work / "mvn.out", work / "jars", expected_sums()
    jars.mkdir()
    shown = -1

    def show() -> None:
        nonlocal shown
        done = {name.decode() for name in _DOWNLOADED.findall(output.read_bytes())} & expected.keys()
        if len(done) != shown:
            shown = len(done)
            on_progress(f"fetching Apache Kafka {KAFKA_VERSION} (once, about 40 MB): {shown} of {len(expected)} files")

    argv = [maven, "-B", "-U", "-Dstyle.color=never", "-f", str(_HERE / "pom.xml")]
    argv += [
        "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies",
        "-DincludeScope=runtime",
        f"-DoutputDirectory={jars}",
    ]
    on_progress(f"fetching Apache Kafka {KAFKA_VERSION} (once, about 40 MB)")
    if process.run(argv, output, _FETCH_TIMEOUT_S, show) != 0:
        raise BrokerError(_maven_error(output.read_text(encoding="utf-8", errors="replace")))


def _maven_error(output: str) -> str:
    lines = [line.removeprefix("[ERROR]").strip() for line in output.splitlines() if line.startswith("[ERROR]")]
    reason = next(iter(lines), " ".join(output.split())[-300:]) or "it said nothing"
    if _OFFLINE.search(reason):
        return f"Apache Kafka {KAFKA_VERSION} cannot be fetched: Maven has no network; connect, or use the in-memory broker"
    return f"Apache Kafka {KAFKA_VERSION} cannot be fetched: mvn says: {reason[:300]}"


def archive_path(folder: Path, banner: str) -> Path:
    """Where the class-data archive (JEP 350) of one Java runtime is kept; it fits that runtime and these jars only."""
    return folder / f"classes-{hashlib.sha256(banner.encode()).hexdigest()[:12]}.jsa"


def keep_archive(made: Path, kept: Path) -> None:
    """Move an archive that a broker made at its end to where the next one finds it. Only speed depends on it."""
    partial = kept.with_suffix(f".{os.getpid()}.partial")
    try:
        shutil.move(made, partial)
        partial.rename(kept)
    except OSError:
        partial.unlink(missing_ok=True)
