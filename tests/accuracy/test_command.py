"""`callstream evaluate` as a user meets it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.accuracy.audio import RecordingError
from pipeline.accuracy.command import EVALUATORS, EXTRA
from pipeline.accuracy.evaluation import Evaluation, Measured, Options, Table
from pipeline.accuracy.manifest import ManifestError
from pipeline.cli import main
from pipeline.models.errors import ModelError
from schemas.tasks import Technology

ROOT = Path(__file__).resolve().parents[2]
MISSING = 'callstream: evaluation needs matplotlib, scikit-learn and scipy, the extra "accuracy"\n'
Evaluate = Callable[[Path, Options], Evaluation]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "list.csv"
    path.write_text("path\na.wav\nb.wav\n")
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path, Options]]:
    """Every technology evaluated by a stand-in; who was asked for what."""
    seen: list[tuple[str, Path, Options]] = []
    for name in {evaluator.module for evaluator in EVALUATORS.values()}:

        def evaluate(manifest: Path, options: Options, name: str = name) -> Evaluation:
            seen.append((name, manifest, options))
            options.progress("half done")
            return Evaluation([Table("All", ["right %"], [[Measured(95.0, 90.0, 98.0)]])], {}, 2, noisy=True)

        _stand_in(monkeypatch, name, evaluate)
    return seen


def _stand_in(monkeypatch: pytest.MonkeyPatch, name: str, evaluate: Evaluate) -> None:
    module = types.ModuleType(f"pipeline.accuracy.{name}")
    module.evaluate = evaluate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_every_technology_has_its_path_word_and_a_module() -> None:
    assert set(Technology) < set(EVALUATORS)
    assert EVALUATORS["voiceprint"] == EVALUATORS["comparison"] == EVALUATORS[Technology.VOICEPRINT_EXTRACTION]
    assert {evaluator.technology for evaluator in EVALUATORS.values()} == set(Technology) - {Technology.VOICEPRINT_EXTRACTION}


def test_markdown_goes_to_stdout_and_progress_to_stderr(manifest: Path, asked: list[tuple[str, Path, Options]]) -> None:
    done = run(manifest, "--technology", "vad")
    assert done.exit_code == 0
    folder = manifest.parent / "accuracy" / "voice-activity-detection"
    assert done.stdout == (folder / "report.md").read_text(encoding="utf-8") + "\n"
    assert "| 95.0 [90.0, 98.0] |" in done.stdout
    assert done.stderr.splitlines() == [
        "callstream: evaluating voice-activity-detection on list.csv",
        "callstream: half done",
    ]


def test_json_is_one_object_a_line_and_nothing_else(manifest: Path, asked: list[tuple[str, Path, Options]]) -> None:
    both = ("--technology", "language", "--technology", "gender")
    done = run(manifest, *both, "--json", "--output", manifest.parent / "out")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["evaluated"]["technology"] for line in lines] == [
        "language-identification",
        "gender-identification-voiceprints",
    ]
    for line in lines:
        assert json.loads((manifest.parent / "out" / line["evaluated"]["technology"] / "report.json").read_text()) == line
        assert line["evaluated"]["recordings"] == 2
        assert line["tables"][0]["rows"] == [[{"value": 95.0, "low": 90.0, "high": 98.0}]]


def test_the_two_voiceprint_technologies_are_one_evaluation(manifest: Path, asked: list[tuple[str, Path, Options]]) -> None:
    done = run(manifest, *(f"--technology={name}" for name in ("comparison", Technology.VOICEPRINT_EXTRACTION, "voiceprint")))
    assert done.exit_code == 0
    assert [name for name, _, _ in asked] == ["voiceprints"]


def test_options_come_from_the_command_line_else_from_the_settings(
    manifest: Path, asked: list[tuple[str, Path, Options]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLSTREAM_LANGUAGE_MODEL", "tiny")
    monkeypatch.setenv("CALLSTREAM_INFERENCE_THREADS", "7")
    monkeypatch.setenv("CALLSTREAM_CACHE_DIR", "/cache")
    run(manifest, "--technology", "vad")
    run(manifest, "--technology", "vad", "--language-model", "small", "--threads", "3", "--resamples", "0")
    first, second = (options for _, _, options in asked)
    assert (first.language_size, first.threads, first.resamples, first.noise) == ("tiny", 7, 200, ())
    assert (second.language_size, second.threads, second.resamples) == ("small", 3, 0)
    assert first.cache_dir == "/cache"


def test_noise_is_what_is_named_else_what_lies_beside(manifest: Path, asked: list[tuple[str, Path, Options]]) -> None:
    beside, other = manifest.parent / "noise.csv", manifest.parent / "far" / "other.csv"
    other.parent.mkdir()
    beside.write_text("path,seconds\nn/1.wav,5\n")
    other.write_text("path\n2.wav\n")
    run(manifest, "--technology", "vad")
    named = run(manifest, "--technology", "vad", "--noise", other, "--json")
    assert [options.noise for _, _, options in asked] == [(manifest.parent / "n/1.wav",), (other.parent / "2.wav",)]
    assert json.loads(named.stdout)["evaluated"]["noise"] == "other.csv"


@pytest.mark.parametrize(
    "arguments",
    [
        ["list.csv"],
        ["--technology", "vad"],
        ["none.csv", "--technology", "vad"],
        ["list.csv", "--technology", "telepathy"],
        ["list.csv", "--technology", "vad", "--noise", "none.csv"],
        ["list.csv", "--technology", "vad", "--resamples", "-1"],
        ["list.csv", "--technology", "vad", "--threads", "0"],
        ["list.csv", "--technology", "vad", "--language-model", "huge"],
        ["list.csv", "--technology", "vad", "--output", "list.csv"],
        [".", "--technology", "vad"],
    ],
)
def test_usage_faults_are_2(manifest: Path, asked: list[tuple[str, Path, Options]], arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.exit_code, done.stdout, asked) == (2, "", [])
    assert done.stderr.startswith("Usage: ")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ManifestError("list.csv, line 3: no path"), "callstream: list.csv, line 3: no path"),
        (RecordingError("a.wav: No such file or directory"), "callstream: a.wav: No such file or directory"),
        (ModelError("a model\ncannot be had"), "callstream: a model cannot be had"),
        (FileNotFoundError(2, "No such file", "x.json"), "callstream: x.json: No such file"),
        (OSError("the disk is full"), "callstream: the disk is full"),
    ],
)
def test_expected_faults_are_one_line_and_1(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def fail(manifest: Path, options: Options) -> Evaluation:
        raise error

    _stand_in(monkeypatch, "vad", fail)
    done = run(manifest, "--technology", "vad")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[1:] == [line]


def test_an_output_folder_that_cannot_be_made_is_found_out_first(
    manifest: Path, asked: list[tuple[str, Path, Options]]
) -> None:
    (manifest.parent / "file").write_text("")
    done = run(manifest, "--technology", "vad", "--output", manifest.parent / "file" / "out")
    assert (done.exit_code, asked) == (1, [])
    assert done.stderr.splitlines() == [f"callstream: {manifest.parent}/file/out/voice-activity-detection: Not a directory"]


def test_faults_of_our_own_are_not_hidden(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(manifest: Path, options: Options) -> Evaluation:
        raise KeyError("a bug")

    _stand_in(monkeypatch, "vad", fail)
    assert isinstance(run(manifest, "--technology", "vad").exception, KeyError)


def python_without(modules: set[str] | frozenset[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line where these cannot be imported."""
    program = f"import sys; sys.modules.update(dict.fromkeys({sorted(modules)!r})); from pipeline.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("module", ["matplotlib", "scipy"])
def test_without_the_extra_there_is_one_line_that_says_what_to_install(manifest: Path, module: str) -> None:
    done = python_without({module}, "evaluate", str(manifest), "--technology", "gender")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", MISSING)


def test_the_rest_runs_without_the_extra() -> None:
    done = python_without(EXTRA, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "evaluate" in done.stdout


def test_nothing_but_accuracy_imports_what_the_extra_installs() -> None:
    found = {
        str(path.relative_to(ROOT)): EXTRA & set(_imported(path))
        for package in ("schemas", "pipeline", "agents")
        for path in (ROOT / package).rglob("*.py")
    }
    users = {path: modules for path, modules in found.items() if modules}
    assert users.keys() >= {"pipeline/accuracy/measures.py", "pipeline/accuracy/plots.py"}
    assert [path for path in users if not path.startswith("pipeline/accuracy/")] == []


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_the_bundled_call_is_evaluated(clips: Path) -> None:
    done = run(clips, "--technology", "gender", "--output", clips.parent / "out", "--json", "--resamples", "10")
    assert done.exit_code == 0, done.stderr or done.exception
    given = json.loads(done.stdout)
    folder = clips.parent / "out" / "gender-identification-voiceprints"
    assert json.loads((folder / "report.json").read_text()) == given
    assert given["evaluated"]["recordings"] == 4
    sums = [[row[2], row[3]] for row in given["tables"][0]["rows"] if row[1] == "all of a recording"]
    assert sums == [[2, 2], [2, 2]]  # in both bands, two recordings of each gender


def test_voiceprints_and_genders_are_evaluated_together(clips: Path) -> None:
    done = run(
        clips, "--technology", "gender", "--technology", "voiceprint", "--output", clips.parent / "out", "--resamples", "0"
    )
    assert done.exit_code == 0, done.stderr or done.exception
    given = json.loads((clips.parent / "out" / Technology.VOICEPRINT_COMPARISON.value / "report.json").read_bytes())
    trials = {tuple(row[:2]): row[2:4] for row in given["tables"][0]["rows"]}
    assert trials["wide", "all of a recording"] == trials["telephone", "3 s"] == [2, 4]
    assert [line for line in done.stderr.splitlines() if "wide: 4 of 4" in line] != []
    assert sorted(path.name for path in (clips.parent / "out" / Technology.VOICEPRINT_COMPARISON.value).glob("*.png")) != []
