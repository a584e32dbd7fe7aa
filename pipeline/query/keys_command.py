"""`callstream keys`: make an API key, and say which there are."""

import sys

import click

from pipeline.query.keys import NAMES, KeyEntry, KeysError, digest_of, is_name, new_key, read_keys
from pipeline.settings import Settings


@click.group("keys")
def keys() -> None:
    """Make and list the API keys of the query service."""


@keys.command("new")
@click.argument("name")
def keys_new(name: str) -> None:
    """Make a key: the key goes to stderr, once; the lines for the keys file go to stdout."""
    if not is_name(name):
        raise click.BadParameter(f"{name!r} is no name: {NAMES}", param_hint="NAME")
    key = new_key()
    click.echo(f'[keys."{name}"]' if "." in name else f"[keys.{name}]")  # a dot without quotes would be two names
    click.echo(f'sha256 = "{digest_of(key.encode())}"')
    click.echo(f"The key of {name}, which is kept nowhere: {key}", err=True)
    click.echo("The lines with its digest belong in the file that CALLSTREAM_API_KEYS_FILE names.", err=True)


def _line(name: str, entry: KeyEntry) -> str:
    limits = {"rate_limit": entry.rate_limit, "concurrency": entry.concurrency, "open_tasks": entry.open_tasks}
    given = [f"{what}={limit}" for what, limit in limits.items() if limit is not None]
    return "  ".join([name, *given, f"calls={str(entry.calls).lower()}"])


@keys.command("list")
@click.pass_obj
def keys_list(settings: Settings) -> None:
    """One line for each key that is configured."""
    try:
        entries = read_keys(settings)
    except KeysError as error:
        click.echo(f"callstream: {error}", err=True)
        sys.exit(2)  # as `callstream query` does
    for name, entry in entries.items():
        click.echo(_line(name, entry))
