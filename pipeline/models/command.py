"""`callstream models list|fetch|verify`."""

import click

from pipeline.models.manifest import load_manifest
from pipeline.models.registry import Progress, fetch, status, verify
from pipeline.settings import Settings


def list_models(settings: Settings) -> bool:
    """Print every model and its state."""
    for model in status(settings.cache_dir, load_manifest(settings.manifest_path)):
        size = f"{model.size_bytes / 1e6:.1f} MB" if model.size_bytes else "-"
        click.echo(f"{model.name:20} {model.state.value:8} {size:>9}  {model.role:9} {model.source}  ({model.licence})")
    return True


def fetch_models(settings: Settings, names: list[str] | None) -> bool:
    """Fetch models, those that a worker needs by default. Raises ModelError."""
    manifest = load_manifest(settings.manifest_path)
    fetch(settings.cache_dir, names, say_progress, manifest=manifest, language_size=settings.language_model)
    return True


def verify_models(settings: Settings, names: list[str] | None) -> bool:
    """Check models; False when one is not what it should be, or none is here."""
    checks = verify(settings.cache_dir, names, load_manifest(settings.manifest_path))
    if not checks:
        click.echo("callstream: no model is here: `callstream models fetch` fetches them", err=True)
    for check in checks:
        click.echo(f"{check.name}: {'ok' if check.ok else check.message}")
    return bool(checks) and all(check.ok for check in checks)


def say_progress(progress: Progress) -> None:
    """One line on stderr for each step."""
    click.echo(f"callstream: models: {progress.stage.value} {progress.name}".rstrip(), err=True)
