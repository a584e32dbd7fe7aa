"""The command line as a user meets it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from pipeline.broker.ports import free_port
from pipeline.sample import sample_path
from pipeline.settings import describe
from tests.system import http

CLI = [sys.executable, "-m", "pipeline.cli"]
NOWHERE = {"CALLSTREAM_BROKER": "127.0.0.1:9"}
REPO = Path(__file__).resolve().parent.parent
README = REPO / "README.md"
LOCKS = ("requirements.lock", "requirements.runtime.lock")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_in(REPO, *arguments, **environment)


def run_in(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    values = os.environ | NOWHERE | environment
    command = [*CLI, *arguments]
    return subprocess.run(command, env=values, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def children_of(mark: str) -> list[str]:
    """Command lines of processes that inherited this environment mark."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_what_a_command_does_not_use_is_not_loaded() -> None:
    """A `callstream --help`, and the query service, must not wait for numpy or Faust."""
    heavy = "{'numpy', 'scipy', 'faust', 'onnxruntime', 'aiokafka', 'soundfile'}"
    code = f"import sys, pipeline.cli; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "[]\n"


def test_numpy_has_one_thread_unless_the_user_wants_more() -> None:
    """Others would wait for work in a loop, and take a core each for it."""
    code = "import pipeline.cli, numpy, threadpoolctl; print({one['num_threads'] for one in threadpoolctl.threadpool_info()})"
    for environment, threads in (({}, 1), ({"OPENBLAS_NUM_THREADS": "2"}, min(2, len(os.sched_getaffinity(0))))):
        kept = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"} | environment
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=kept)
        assert found.stdout == f"{{{threads}}}\n"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CALLSTREAM_PORT", "x"),
        ("CALLSTREAM_PORT", "70000"),
        ("CALLSTREAM_TOPIC_PREFIX", "a b"),
        ("CALLSTREAM_LANGUAGE_MODEL", "huge"),
        ("CALLSTREAM_IDLE_TIMEOUT_S", "-1"),
        ("CALLSTREAM_LOG_LEVEL", "loud"),
        ("CALLSTREAM_TASK_TTL_S", "inf"),
        ("CALLSTREAM_BROKER", "localhost:9092,localhost:99999"),
        ("CALLSTREAM_BROKER", "kafka..example:9092"),
        ("CALLSTREAM_HOST", "é.."),
        ("CALLSTREAM_TOPIC_PREFIX", "p\n"),
        ("CALLSTREAM_PARTITIONS", "\udcff"),
    ],
)
def test_a_bad_setting_stops_the_program_with_one_line_that_names_it(variable: str, value: str) -> None:
    for command in (["topics"], ["worker"], ["query"], ["send", str(sample_path())]):
        done = run(*command, **{variable: value})
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert variable in done.stderr


def test_an_encoding_that_lacks_a_character_ends_no_command() -> None:
    shown = subprocess.run(
        [*CLI, "--help"], env=os.environ | {"PYTHONIOENCODING": "iso-8859-1"}, capture_output=True, timeout=60, check=False
    )
    assert shown.returncode == 0
    assert b"host:port[,host:port?]" in shown.stdout


def test_help_and_readme_name_every_setting_with_its_default_and_meaning() -> None:
    shown, written = run("--help").stdout, README.read_text()
    for variable, default, meaning in describe():
        assert variable in shown
        assert re.search(rf"\| `{variable}` \| `?{re.escape(_portable(variable, default))}`? \|", written), variable
        assert meaning in written


def _portable(variable: str, default: str) -> str:
    return "~/.cache/callstream" if variable == "CALLSTREAM_CACHE_DIR" else default or "empty"


@pytest.mark.parametrize(
    "arguments",
    [
        ["send", "no-such-file.wav"],
        ["send"],
        ["send", str(sample_path()), "--options", "{"],
        ["send", str(sample_path()), "--options", '{"technologies": ["telepathy"]}'],
        ["send", str(sample_path()), str(sample_path()), "--call-id", "one-for-two"],
        ["send", str(sample_path()), "--call-id", "x" * 129],
        ["send", str(sample_path()), "--call-id", ""],
        ["send", str(sample_path()), "--call-id", "\udcff"],
        ["send", str(sample_path()), "--options", "\udcff"],
        ["send", str(sample_path()), "--encoding", "opus"],
        ["watch", "--call-id", ""],
        ["broker", "--in-memory", "--port", "9"],
        ["plan", "--calls", "1", "--speech", "nan"],
        ["plan", "--calls", "1", "--call-seconds", "inf"],
        ["plan", "--calls", "1", "--language-seconds", "nan"],
        ["models", "fetch", "gpt"],
        ["models", "verify", "gpt"],
        ["worker", "--agents", "vad,telepathy"],
        ["demo", "no-such-file.wav"],
        ["dead-letters", "show", "1-2"],
        ["dead-letters", "list", "--since", "yesterday"],
        ["dead-letters", "replay"],
        ["dead-letters", "replay", "--limit", "5"],
        ["dead-letters", "replay", "--all", "1/2"],
        ["dead-letters", "replay", "--stage", "vad", "1/2"],
        ["no-such-command"],
    ],
)
def test_a_usage_error_is_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr


@pytest.mark.parametrize(
    ("arguments", "variable", "value", "code"),
    [
        (["worker"], "CALLSTREAM_MODELS_MANIFEST", "nowhere.toml", 2),
        (["models", "list"], "CALLSTREAM_MODELS_MANIFEST", "nowhere.toml", 2),
        (["demo"], "CALLSTREAM_MODELS_MANIFEST", "nowhere.toml", 2),
        (["keys", "list"], "CALLSTREAM_API_KEYS_FILE", "nowhere.toml", 2),
        (["broker"], "CALLSTREAM_CACHE_DIR", "/proc/nowhere", 1),
        (["models", "fetch"], "CALLSTREAM_CACHE_DIR", "/proc/nowhere", 1),
        (["query"], "CALLSTREAM_DATA_DIR", "/proc/nowhere", 1),
        (["query"], "CALLSTREAM_BLOB_STORE", "/proc/nowhere", 1),
    ],
)
def test_a_file_or_folder_that_cannot_be_used_is_named(
    tmp_path: Path, arguments: list[str], variable: str, value: str, code: int
) -> None:
    folders = {"CALLSTREAM_DATA_DIR": str(tmp_path), "CALLSTREAM_PORT": "0"}
    done = run_in(tmp_path, *arguments, **folders | {variable: value})
    assert done.returncode == code
    said = [line for line in (done.stdout + done.stderr).splitlines() if variable in line]
    assert len(said) == 1
    assert value in said[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["topics"],
        ["send", str(sample_path())],
        ["watch"],
        ["dead-letters", "list"],
        ["dead-letters", "show", "0/0"],
        ["dead-letters", "replay", "--all"],
    ],
)
def test_without_a_broker_there_is_one_line_that_says_so(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    waiting = "callstream: 127.0.0.1:9 does not answer yet, trying again"
    assert len([line for line in done.stderr.splitlines() if line != waiting]) == 1
    assert "127.0.0.1:9" in done.stderr


def test_a_file_that_is_no_audio_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "text.wav"
    path.write_text("this is no audio")
    done = run("demo", str(path), "--json")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "text.wav cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_demo_ends_with_every_task_done_and_leaves_nothing_running(tmp_path: Path) -> None:
    """Also where a setting names a file from where the user is."""
    (tmp_path / "profile.json").write_text("{}")
    values = {"CALLSTREAM_LANGUAGE_MODEL": "tiny", "CALLSTREAM_PORT": "0", "CALLSTREAM_CALIBRATION_PROFILE": "profile.json"}
    mark = f"CALLSTREAM_TEST_MARK=demo-{os.getpid()}"
    name, _, value = mark.partition("=")
    done = run_in(tmp_path, "demo", "--json", **values | {name: value})
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    answers = {line["url"].split("/")[-2]: line["answer"] for line in lines if "url" in line}
    assert len(answers) == 5
    assert {answer["task"]["state"] for answer in answers.values()} == {"done"}
    languages = answers["language-identification"]["result"]["channels"]
    assert [channel["scores"][0]["identifier"] for channel in languages] == ["en", "it"]
    genders = answers["gender-identification-voiceprints"]["result"]["channels"]
    assert [channel["male"]["score_llr"] > 0 for channel in genders] == [False, True]
    scores = answers["speaker-identification-voiceprint-comparison"]["result"]["scores"]["values"]
    assert min(scores[0], scores[3]) > 0 > max(scores[1], scores[2])
    assert children_of(mark) == []


@pytest.mark.parametrize(("number", "who"), [(signal.SIGTERM, "demo"), (signal.SIGKILL, "demo"), (signal.SIGKILL, "worker")])
def test_a_demo_that_is_ended_leaves_nothing_running(number: signal.Signals, who: str) -> None:
    mark = f"CALLSTREAM_TEST_MARK={who}-{number}-{os.getpid()}"
    name, _, value = mark.partition("=")
    environment = os.environ | {name: value, "CALLSTREAM_LANGUAGE_MODEL": "tiny", "CALLSTREAM_PORT": "0"}
    demo = subprocess.Popen(
        [*CLI, "demo", "--realtime"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if "streaming" in line:
            break
    time.sleep(1)
    os.kill(demo.pid if who == "demo" else _pid_of(mark, "worker"), number)
    said = demo.stdout.read()
    assert demo.wait(timeout=60) != 0
    if who == "worker":
        assert "the worker has ended with exit code -9" in said
    give_up_s = time.monotonic() + 20
    while left := children_of(mark):
        assert time.monotonic() < give_up_s, left
        time.sleep(0.2)


def _pid_of(mark: str, command: str) -> int:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            marked = mark.encode() in (process / "environ").read_bytes()
            if marked and command in (process / "cmdline").read_bytes().decode().split("\0"):
                return int(process.name)
        except OSError:
            continue
    raise AssertionError(f"no process runs {command}")


def test_a_worker_that_waits_for_kafka_says_so_and_ends_when_it_is_asked() -> None:
    """As process 1 of a container it would not, had it nothing to say to signals."""
    port = free_port()
    waits = {"CALLSTREAM_BROKER": "127.0.0.1:9", "CALLSTREAM_WORKER_PORT": str(port)}
    with subprocess.Popen([*CLI, "worker"], env=os.environ | waits, stderr=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stderr is not None
            assert "waiting for 127.0.0.1:9" in worker.stderr.readline()
            assert http("GET", f"http://127.0.0.1:{port}/health")[0] == 200
            assert http("GET", f"http://127.0.0.1:{port}/ready")[0] == 503
            second = run("worker", **waits)
            assert (second.returncode, len(second.stderr.splitlines())) == (1, 1)
            assert f"127.0.0.1:{port}" in second.stderr
            assert "CALLSTREAM_WORKER_PORT" in second.stderr
            worker.terminate()
            assert worker.wait(timeout=60) == 0
            assert "Traceback" not in worker.stderr.read()
        finally:
            worker.kill()


def _matters() -> None:
    """These tests may run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("does_not_matter", [False, True], ids=["a terminal", "nohup"])
def test_a_worker_ends_in_order_when_its_terminal_is_closed(does_not_matter: bool) -> None:
    values = os.environ | NOWHERE | {"CALLSTREAM_WORKER_PORT": str(free_port())}
    command = ["nohup", *CLI, "worker"] if does_not_matter else [*CLI, "worker"]
    with subprocess.Popen(
        command, env=values, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=_matters
    ) as worker:
        try:
            assert worker.stderr is not None
            assert "waiting for 127.0.0.1:9" in worker.stderr.readline()
            worker.send_signal(signal.SIGHUP)
            if does_not_matter:
                assert "waiting for 127.0.0.1:9" in worker.stderr.readline()
                worker.terminate()
            assert worker.wait(timeout=60) == 0
        finally:
            worker.kill()


@pytest.mark.parametrize("arguments", [("plan", "--calls", "10"), ("keys", "new", "x"), ("models", "list")])
def test_an_output_that_cannot_be_written_is_told(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([*CLI, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (
        1,
        "callstream: the output cannot be written: No space left on device",
    )


def test_no_models_are_not_verified_ones(tmp_path: Path) -> None:
    verified = run("models", "verify", CALLSTREAM_CACHE_DIR=str(tmp_path))
    assert (verified.returncode, "no model is here" in verified.stderr) == (1, True)


def test_the_image_holds_a_part_of_what_is_tested() -> None:
    whole, image = (set((REPO / name).read_text().replace(" \\\n", "").splitlines()) for name in LOCKS)
    assert image < whole
    wanted = {
        re.split(r"[\[=<>]", one)[0] for one in tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["dependencies"]
    }
    assert wanted <= {line.partition("==")[0] for line in image}
    assert not [line for line in whole if "://" in line]
