"""`callstream evaluate`: its options, and which module evaluates what. Imports that take time come when the command runs."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from pipeline.accuracy.defaults import LIMIT, RESAMPLES
from pipeline.models.manifest import Role
from pipeline.settings import Settings
from schemas.tasks import Technology

if TYPE_CHECKING:
    from pipeline.accuracy.evaluation import Options
    from pipeline.accuracy.report import Report

EXTRA = frozenset({"matplotlib", "scipy", "sklearn"})  # what the extra `accuracy` installs, by its modules
_MISSING = 'evaluation needs matplotlib, scikit-learn and scipy, the extra "accuracy"'
_NOISE_NAME = "noise.csv"


class Evaluator(NamedTuple):
    """What evaluates a technology: a module with `evaluate(manifest, options) -> Evaluation`, and the models that it runs."""

    technology: Technology
    module: str
    roles: tuple[Role, ...]


_VAD = Evaluator(Technology.VOICE_ACTIVITY_DETECTION, "vad", (Role.VAD,))
_VOICEPRINTS = Evaluator(Technology.VOICEPRINT_COMPARISON, "voiceprints", (Role.VAD, Role.SPEAKER, Role.VOICE))
_LANGUAGES = Evaluator(Technology.LANGUAGE_IDENTIFICATION, "languages", (Role.VAD, Role.LANGUAGE))
_GENDERS = Evaluator(Technology.GENDER_IDENTIFICATION, "genders", (Role.VAD, Role.SPEAKER, Role.VOICE))
EVALUATORS = {
    "vad": _VAD,
    "voiceprint": _VOICEPRINTS,
    "comparison": _VOICEPRINTS,
    "language": _LANGUAGES,
    "gender": _GENDERS,
    Technology.VOICE_ACTIVITY_DETECTION.value: _VAD,
    Technology.VOICEPRINT_EXTRACTION.value: _VOICEPRINTS,
    Technology.VOICEPRINT_COMPARISON.value: _VOICEPRINTS,
    Technology.LANGUAGE_IDENTIFICATION.value: _LANGUAGES,
    Technology.GENDER_IDENTIFICATION.value: _GENDERS,
}


class EvaluationError(Exception):
    """The evaluation cannot be done; the message says why in one line."""


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("manifest", type=_FILE)
@click.option(
    "--technology", "names", required=True, multiple=True, type=click.Choice(list(EVALUATORS)), help="What; may be repeated."
)
@click.option(
    "--output",
    default="accuracy",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the reports, each in a folder of its technology.",
)
@click.option("--noise", type=_FILE, help="CSV of noises to mix in, column path. Default: noise.csv beside MANIFEST.")
@click.option("--language-model", type=click.Choice(["tiny", "base", "small"]), help="Whisper size. Default: the setting.")
@click.option(
    "--resamples",
    default=RESAMPLES,
    show_default=True,
    type=click.IntRange(0, 100_000),
    help="Of the bootstrap; 0: no intervals.",
)
@click.option(
    "--limit",
    default=LIMIT,
    show_default=True,
    type=click.IntRange(1),
    help="Recordings of each corpus, of languages of each corpus and language (60 at most).",
)
@click.option("--corpus", "corpora", multiple=True, help="Only this corpus of MANIFEST; may be repeated.")
@click.option("--profile", type=_FILE, help="Calibration profile to score with. Default: the setting.")
@click.option("--threads", type=click.IntRange(1, 256), help="Threads for model inference. Default: the setting.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout, instead of Markdown.")
@click.pass_obj
def evaluate(
    settings: Settings,
    manifest: Path,
    names: tuple[str, ...],
    output: Path,
    noise: Path | None,
    language_model: str | None,
    resamples: int,
    limit: int,
    corpora: tuple[str, ...],
    profile: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Say how good the answers are on the recordings of MANIFEST, a CSV with their paths and what is true of them."""
    noise = noise or _noise_beside(manifest)
    try:
        with one_line():
            from pipeline.accuracy.evaluation import Options
            from pipeline.scoring.profile import load_profile

            options = Options(
                cache_dir=settings.cache_dir,
                language_size=language_model or settings.language_model,
                language_floor=settings.language_floor,
                voiceprint_enough_s=settings.voiceprint_enough_s,
                voice_enough_s=settings.voice_enough_s,
                manifest_path=settings.manifest_path,
                execution=settings.execution,
                profile=load_profile(str(profile or settings.calibration_profile)),
                resamples=resamples,
                limit=limit,
                corpora=corpora,
                threads=threads or settings.inference_threads,
            )
        for evaluator in dict.fromkeys(EVALUATORS[name] for name in names):
            report = _run(evaluator, manifest, noise, options, output / evaluator.technology)
            _print(report, as_json=as_json)
    except EvaluationError as error:
        click.echo(f"callstream: {error}", err=True)
        sys.exit(1)


def _noise_beside(manifest: Path) -> Path | None:
    beside = manifest.parent / _NOISE_NAME
    return beside if beside.is_file() else None


def _run(evaluator: Evaluator, manifest: Path, noise: Path | None, options: Options, folder: Path) -> Report:
    """Evaluate one technology. Raises EvaluationError."""
    with one_line():
        import msgspec

        from pipeline.accuracy import report
        from pipeline.accuracy.manifest import read_paths

        module = importlib.import_module(f"pipeline.accuracy.{evaluator.module}")
        folder.mkdir(parents=True, exist_ok=True)  # found out before an hour of work, not after
        evaluated = report.describe(evaluator.technology, manifest, noise, evaluator.roles, options)
        with progress() as say:
            say(f"evaluating {evaluator.technology} on {manifest.name}")
            noises = tuple(read_paths(noise)) if noise else ()
            evaluation = module.evaluate(manifest, msgspec.structs.replace(options, noise=noises, progress=say))
        return report.write(folder, evaluated, evaluation)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Every expected fault as EvaluationError."""
    from pipeline.accuracy.audio import RecordingError
    from pipeline.accuracy.manifest import ManifestError
    from pipeline.models.errors import ModelError
    from pipeline.scoring.profile import ProfileError

    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise EvaluationError(_MISSING) from None
    except (ManifestError, RecordingError, ModelError, ProfileError) as error:
        raise EvaluationError(" ".join(str(error).split())) from None
    except OSError as error:
        raise EvaluationError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from None


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """What tells stderr what is being done: one line that changes on a terminal, a line each elsewhere."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: click.echo(f"callstream: {text}", err=True)
        return
    with console.status("") as status:
        yield lambda text: status.update(escape(text))


def _print(report: Report, *, as_json: bool) -> None:
    import msgspec

    from pipeline.accuracy.report import markdown

    click.echo(msgspec.json.encode(report).decode() if as_json else markdown(report))
