"""`callstream calibrate`: a calibration profile of one's own recordings. Imports that take time come when the command runs."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.accuracy.command import EvaluationError, one_line, progress
from pipeline.accuracy.defaults import LIMIT
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.accuracy.calibrate import Moved
    from pipeline.accuracy.evaluation import Options

_BANDS = ("wide", "telephone")


@click.command()
@click.argument("manifest", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--output",
    default="profile.json",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The profile; name it in CALLSTREAM_CALIBRATION_PROFILE.",
)
@click.option(
    "--band",
    "bands",
    multiple=True,
    default=_BANDS,
    show_default=True,
    type=click.Choice(_BANDS),
    help="What carries the source's calls; the recordings are heard through it. May be repeated.",
)
@click.option(
    "--limit",
    default=LIMIT,
    show_default=True,
    type=click.IntRange(1),
    help="Recordings of each corpus, of languages of each corpus and language (60 at most).",
)
@click.pass_obj
def calibrate(settings: Settings, manifest: Path, output: Path, bands: tuple[str, ...], limit: int) -> None:
    """Calibrate scores to a source: MANIFEST is a CSV of its recordings (path, speaker; if known gender, language, corpus)."""
    if output.exists() and output.samefile(manifest):
        raise click.UsageError("--output is the list itself")
    try:
        with one_line():
            from pipeline.accuracy.evaluation import Options

            options = Options(
                cache_dir=settings.cache_dir,
                language_size=settings.language_model,
                manifest_path=settings.manifest_path,
                execution=settings.execution,
                voiceprint_enough_s=settings.voiceprint_enough_s,
                voice_enough_s=settings.voice_enough_s,
                limit=limit,
                threads=settings.inference_threads,
            )
            _write_profile(manifest, output, bands, options)
    except EvaluationError as error:
        click.echo(f"callstream: {error}", err=True)
        sys.exit(1)


def _write_profile(manifest: Path, output: Path, bands: tuple[str, ...], options: Options) -> None:
    import msgspec

    from pipeline.accuracy.audio import Band
    from pipeline.accuracy.calibrate import calibrate as calibrated

    # a folder that cannot be written to is found out before the work, and a profile is there whole or not at all
    with tempfile.TemporaryDirectory(prefix=".profile-", dir=output.parent) as folder, progress() as say:
        chosen = [band for band in Band if band in bands]
        profile, moved = calibrated(manifest, chosen, msgspec.structs.replace(options, progress=say))
        written = Path(folder) / output.name
        written.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n")
        written.replace(output)
    for name, fallback in _UNMOVED.items():
        click.echo(f"{name}: {_said(name, moved[name]) if name in moved else fallback}")
    click.echo(f"{output}: set CALLSTREAM_CALIBRATION_PROFILE to it, for calls of this source ({', '.join(chosen)}).")
    click.echo("These figures are of the recordings that made it; callstream evaluate --profile says how it does on others.")


def _said(name: str, moved: Moved) -> str:
    if name == "language":
        return f"cross entropy {moved.before:.3f} bits before, {moved.after:.3f} with the profile"
    return f"Cllr {moved.before:.3f} bits before, {moved.after:.3f} with the profile, {moved.least:.3f} at best"


_UNMOVED = {
    "comparison": "the means are the source's; no speaker was recorded twice, so the scores are not scaled",
    "gender": "as built in; it takes recordings of both genders that are labelled",
    "language": "as built in; it takes recordings whose languages are known",
}
