"""Fetching: whole or not at all, one clear line for every failure. The packages are real; two are small ones without models."""

import os
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pipeline.models import store
from pipeline.models.manifest import (
    Conversion,
    FeatureKind,
    Features,
    Manifest,
    Model,
    ModelFile,
    Role,
    Source,
    SourceKind,
    load_manifest,
)
from pipeline.models.models import ModelSet
from pipeline.models.registry import ModelError, ModelState, ModelUnreachableError, Progress, Stage, fetch, status, verify

SIX_SHA256 = "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"
SIX_MEMBER_SHA256 = "c51c91f703d3d4b3696c923cb5fec213e05e75d9215393befac7f2fa6a3904df"
ODD_SHA256 = "13c23b3f1f3a5c146b8906e23c8e674f8e4a6ff44b77720e1d4bddb7b2caf312"
ODD_MEMBER_SHA256 = "0f9e8227a22ef8abaf1aee8f82d7cc802964d44c9347ed4bbbaf8c427d19a995"
ZEROS = "0" * 64


def _manifest(kind: SourceKind, archive: str = "", member: str = "", name: str = "", version: str = "") -> Manifest:
    """A package that holds no model; the arguments replace what would be right."""
    pip = kind is SourceKind.PIP
    source = Source(
        kind=kind,
        package="six" if pip else "is-odd",
        version=version or ("1.17.0" if pip else "3.0.1"),
        sha256=archive or (SIX_SHA256 if pip else ODD_SHA256),
    )
    file = ModelFile(
        member=name or ("six.py" if pip else "package/index.js"),
        sha256=member or (SIX_MEMBER_SHA256 if pip else ODD_MEMBER_SHA256),
        conversion=Conversion.COPY,
        output="small.onnx",
        inputs=["features"],
        outputs=["embedding"],
    )
    features = Features(kind=FeatureKind.KALDI_FBANK, bins=80)
    model = Model(name="small", role=Role.SPEAKER, licence="MIT", dimension=192, source=source, files=[file], features=features)
    return Manifest([model])


def _own_model(path: Path, **changes: object) -> Manifest:
    """The user's own speaker model: an ONNX file by its path."""
    built_in = load_manifest().model("campplus")
    file = ModelFile(output="own.onnx", inputs=["features"], outputs=["embedding"])
    source = Source(kind=SourceKind.FILE, path=str(path))
    return Manifest([msgspec.structs.replace(built_in, name="own", source=source, files=[file], **changes)])


def _left(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models").iterdir() if path.name != ".lock")


def _fails(cache: Path, manifest: Manifest, kind: type[ModelError] = ModelError) -> str:
    """Fetch, expecting one line and nothing left behind; returns the line."""
    with pytest.raises(ModelError) as failure:
        fetch(cache, [manifest.models[0].name], manifest=manifest)
    assert type(failure.value) is kind
    assert "\n" not in str(failure.value)
    assert _left(cache) == []
    return str(failure.value)


@pytest.mark.parametrize("kind", [SourceKind.PIP, SourceKind.NPM])
def test_a_wrong_archive_is_refused(tmp_path: Path, kind: SourceKind) -> None:
    assert "SHA-256" in _fails(tmp_path, _manifest(kind, archive=ZEROS))


@pytest.mark.parametrize("kind", [SourceKind.PIP, SourceKind.NPM])
def test_a_wrong_member_is_refused(tmp_path: Path, kind: SourceKind) -> None:
    assert f"where {ZEROS} is pinned" in _fails(tmp_path, _manifest(kind, member=ZEROS))


@pytest.mark.parametrize("kind", [SourceKind.PIP, SourceKind.NPM])
def test_a_missing_member_is_named(tmp_path: Path, kind: SourceKind) -> None:
    assert "no readable nothing.onnx" in _fails(tmp_path, _manifest(kind, name="nothing.onnx"))


@pytest.mark.parametrize("kind", [SourceKind.PIP, SourceKind.NPM])
def test_a_version_that_is_not_there_is_named(tmp_path: Path, kind: SourceKind) -> None:
    assert "==0.0.1234" in _fails(tmp_path, _manifest(kind, version="0.0.1234"))


@pytest.mark.parametrize("kind", [SourceKind.PIP, SourceKind.NPM])
def test_what_is_no_model_is_refused(tmp_path: Path, kind: SourceKind) -> None:
    """Everything is as pinned, so it comes as far as being run."""
    assert "cannot be opened" in _fails(tmp_path, _manifest(kind))


@pytest.mark.parametrize("kind", [SourceKind.PIP, SourceKind.NPM])
def test_no_network_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: SourceKind) -> None:
    for name in ("PIP_INDEX_URL", "npm_config_registry"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    assert "check the network" in _fails(tmp_path, _manifest(kind), ModelUnreachableError)


def test_a_missing_npm_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "npm is missing" in _fails(tmp_path / "cache", _manifest(SourceKind.NPM))


def test_a_missing_pip_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    assert "pip is missing" in _fails(tmp_path / "cache", _manifest(SourceKind.PIP))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB; the package of the GE2E model has 15."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_while_downloading(small_disk: Path, manifest: Manifest) -> None:
    line = _fails(small_disk, Manifest([manifest.model("ge2e")]))
    assert "No space left on device" in line


def test_a_full_disk_while_copying(small_disk: Path, cache_dir: Path) -> None:
    line = _fails(small_disk, _own_model(cache_dir / "models" / "campplus.onnx"))
    assert "No space left on device" in line


def test_a_folder_that_cannot_be_made(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot be stored") as failure:
        fetch(tmp_path / "file", ["silero"], manifest=manifest)
    assert "\n" not in str(failure.value)


def _fetch_in_process(cache: Path, name: str) -> subprocess.Popen[str]:
    code = "import sys; from pipeline.models.registry import fetch; "
    code += "fetch(sys.argv[1], [sys.argv[2]], lambda progress: print(progress.stage.value, flush=True))"
    return subprocess.Popen([sys.executable, "-c", code, str(cache), name], stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_download_once(tmp_path: Path, manifest: Manifest) -> None:
    processes = [_fetch_in_process(tmp_path, "ge2e") for _ in range(2)]
    outputs = [process.communicate()[0].split("\n") for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(stage == Stage.DOWNLOADING for output in outputs for stage in output) == 1
    assert [row.ok for row in verify(tmp_path)] == [True]
    assert _left(tmp_path) == ["ge2e.json", "ge2e.onnx"]


def test_who_comes_second_waits_and_is_told(tmp_path: Path) -> None:
    told, entered = threading.Event(), threading.Event()

    def second() -> None:
        with store.locked(tmp_path, told.set):
            entered.set()

    thread = threading.Thread(target=second)
    with store.locked(tmp_path, lambda: None):
        thread.start()
        assert told.wait(timeout=60)
        assert not entered.is_set()
    thread.join()
    assert entered.is_set()


def test_a_killed_fetch_leaves_nothing_that_counts(tmp_path: Path, manifest: Manifest) -> None:
    process = _fetch_in_process(tmp_path, "ge2e")
    assert process.stdout is not None
    assert process.stdout.readline().strip() == Stage.DOWNLOADING
    process.kill()
    process.wait()
    assert [name for name in _left(tmp_path) if not name.startswith(".staging-")] == []
    assert {row.state for row in status(tmp_path)} == {ModelState.MISSING}
    fetch(tmp_path, ["ge2e"])
    assert _left(tmp_path) == ["ge2e.json", "ge2e.onnx"]


def test_what_is_there_needs_no_tool_and_no_lock(cache_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    seen: list[Progress] = []
    with store.locked(cache_dir, lambda: None):
        paths = fetch(cache_dir, on_progress=seen.append)
    assert seen == []
    assert set(paths) == {"silero", "campplus", "ge2e", "whisper-base"}
    assert all(path.is_file() for files in paths.values() for path in files)


def test_only_the_chosen_language_size_is_wanted(manifest: Manifest) -> None:
    assert manifest.default_names("small") == ["silero", "campplus", "ge2e", "whisper-small"]
    with pytest.raises(ModelError, match="no language model of size 'huge'"):
        manifest.default_names("huge")


@pytest.fixture
def own_cache(cache_dir: Path, tmp_path: Path) -> Path:
    """A folder of which one may break something."""
    (tmp_path / "models").mkdir()
    for name in ("ge2e.onnx", "ge2e.json"):
        shutil.copy(cache_dir / "models" / name, tmp_path / "models" / name)
    return tmp_path


def test_a_changed_byte_is_found(own_cache: Path) -> None:
    path = own_cache / "models" / "ge2e.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (row,) = verify(own_cache, ["ge2e"])
    assert not row.ok
    assert "has changed since it was fetched" in row.message


def test_a_cut_off_file_is_fetched_again(own_cache: Path, manifest: Manifest) -> None:
    os.truncate(own_cache / "models" / "ge2e.onnx", 1000)
    assert store.state_of(own_cache, manifest.model("ge2e")) is ModelState.CHANGED
    (row,) = verify(own_cache, ["ge2e"])
    assert not row.ok
    fetch(own_cache, ["ge2e"])
    assert verify(own_cache) == [type(row)("ge2e", True)]


def test_another_pin_makes_it_another_model(own_cache: Path, manifest: Manifest) -> None:
    model = manifest.model("ge2e")
    other = msgspec.structs.replace(model, source=msgspec.structs.replace(model.source, sha256=ZEROS))
    assert store.state_of(own_cache, model) is ModelState.READY
    assert store.state_of(own_cache, other) is ModelState.CHANGED


def test_an_empty_cache_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"silero, campplus, ge2e, whisper-base are not in .*callstream models fetch"):
        ModelSet.load(tmp_path)


def test_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model is called 'gpt'; the manifest has: silero"):
        fetch(tmp_path, ["gpt"])


OWN = """
    [[models]]
    name = "mine"
    role = "speaker"
    licence = "proprietary"
    dimension = 192
    source = {kind = "file", path = "mine.onnx"}
    features = {kind = "kaldi-fbank", bins = 80}
    files = [{output = "mine.onnx", inputs = ["features"], outputs = ["embedding"]}]
"""


def test_a_user_brings_a_model(cache_dir: Path, tmp_path: Path) -> None:
    shutil.copy(cache_dir / "models" / "campplus.onnx", tmp_path / "mine.onnx")
    (tmp_path / "own.toml").write_text(OWN.replace("bins = 80", 'bins = 80, window = "hamming", sample_scale = 32768.0'))
    manifest = load_manifest(tmp_path / "own.toml")
    assert manifest.default_names() == ["silero", "mine", "ge2e", "whisper-base"]
    (path,) = fetch(tmp_path / "cache", ["mine"], manifest=manifest)["mine"]
    assert path.read_bytes() == (tmp_path / "mine.onnx").read_bytes()
    assert [row.ok for row in verify(tmp_path / "cache", ["mine"], manifest)] == [True]


def test_a_users_file_that_changed_is_taken_again(cache_dir: Path, tmp_path: Path) -> None:
    shutil.copy(cache_dir / "models" / "campplus.onnx", tmp_path / "mine.onnx")
    manifest = _own_model(tmp_path / "mine.onnx")
    fetch(tmp_path, ["own"], manifest=manifest)
    os.utime(tmp_path / "mine.onnx", (1, 1))
    assert store.state_of(tmp_path, manifest.models[0]) is ModelState.CHANGED


def test_a_users_file_that_changes_while_it_is_taken_is_taken_again(cache_dir: Path, tmp_path: Path) -> None:
    shutil.copy(cache_dir / "models" / "campplus.onnx", tmp_path / "mine.onnx")
    manifest = _own_model(tmp_path / "mine.onnx")

    def replace(progress: Progress) -> None:
        if progress.stage is Stage.CHECKING:
            os.utime(tmp_path / "mine.onnx", (1, 1))

    fetch(tmp_path, ["own"], replace, manifest=manifest)
    assert store.state_of(tmp_path, manifest.models[0]) is ModelState.CHANGED
    fetch(tmp_path, ["own"], manifest=manifest)
    assert store.state_of(tmp_path, manifest.models[0]) is ModelState.READY


def test_a_users_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Not the folder that it would have been put into."""
    unreadable = Path("/proc/self/mem")
    if not unreadable.is_file():
        pytest.skip("no file here that is there and cannot be read")
    assert "/proc/self/mem of model 'own' cannot be read: Input/output error" in _fails(tmp_path, _own_model(unreadable))


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("bins = 80", "bins = 80, sample_rate_hz = 8000", "8000"),
        ("kaldi-fbank", "samples", "features of kind samples where a speaker model has kaldi-fbank"),
        ("speaker", "language", "has 1 files where a language model has 2"),
        ('inputs = ["features"]', "inputs = []", "length >= 1"),
    ],
    ids=["rate", "kind", "files", "inputs"],
)
def test_what_the_code_of_a_role_cannot_do_is_refused(tmp_path: Path, right: str, wrong: str, says: str) -> None:
    assert right in OWN
    (tmp_path / "own.toml").write_text(OWN.replace(right, wrong))
    with pytest.raises(ModelError) as refused:
        load_manifest(tmp_path / "own.toml")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_users_model_of_another_size_is_refused(cache_dir: Path, tmp_path: Path) -> None:
    manifest = _own_model(cache_dir / "models" / "campplus.onnx", dimension=512)
    assert "gives 192 values, not 512" in _fails(tmp_path, manifest)


def test_a_users_file_that_is_missing_is_named(tmp_path: Path) -> None:
    assert "absent.onnx of model 'own' does not exist" in _fails(tmp_path, _own_model(tmp_path / "absent.onnx"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = []", "models manifest"),
        ("not toml", "models manifest"),
        ("[[models]]\nname = '../up'", "models manifest"),
    ],
)
def test_a_bad_manifest_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(ModelError, match=message) as failure:
        load_manifest(tmp_path / "own.toml")
    assert "\n" not in str(failure.value)
    with pytest.raises(ModelError, match="cannot be read"):
        load_manifest(tmp_path / "none.toml")
