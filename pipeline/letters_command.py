"""`callstream dead-letters`: its commands and their options. Imports that take time come when a command runs."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from pipeline.settings import Settings


def _place(_context: click.Context, _parameter: click.Parameter, texts: Any) -> Any:  # noqa: ANN401 - click's own signature
    from pipeline.letters import read_place

    places = {text: read_place(text) for text in ([texts] if isinstance(texts, str) else texts)}
    for text in (text for text, place in places.items() if place is None):
        raise click.BadParameter(f"{text!r} is no place; `callstream dead-letters list` prints them as partition/offset")
    return places[texts] if isinstance(texts, str) else frozenset(places.values())


def _since(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    from datetime import UTC, datetime

    from pipeline.letters import read_since_ms

    try:
        return None if text is None else read_since_ms(text, datetime.now(UTC))
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither ISO 8601 nor a duration such as 90s, 15m, 2h, 7d") from None


_LETTER_OPTIONS = (
    click.option("--error-type", help="Only letters of this error-type."),
    click.option("--stage", help="Only what this stage could not process."),
    click.option("--call", help="Only letters of this key: a call id, or a request's task id."),
    click.option("--topic", help="Only what came from this topic."),
    click.option("--since", "since_ms", callback=_since, help="Buried since then: ISO 8601 (UTC), or 90s, 15m, 2h, 7d ago."),
    click.option("--limit", type=click.IntRange(1), help="At most so many, the first by partition and offset."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout."),
    click.pass_obj,
)


def _letter_options(command: Any) -> Any:  # noqa: ANN401 - what decorators are
    for option in reversed(_LETTER_OPTIONS):
        command = option(command)
    return command


def _wanted(settings: Settings, filters: dict[str, Any]) -> Any:  # noqa: ANN401 - imported when it is needed
    from pipeline.letters import Wanted

    topic = filters.pop("topic")
    return Wanted(topics=() if topic is None else (topic, settings.topic(topic)), **filters)


def _run_letters(command: Any) -> None:  # noqa: ANN401 - a coroutine of one of the three below
    from pipeline.dead_letters import DeadLettersError

    try:
        sys.exit(1 if asyncio.run(command) is False else 0)
    except DeadLettersError as error:
        click.echo(f"callstream: {error}", err=True)
        sys.exit(1)


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at what could not be processed, and put it back."""


@dead_letters.command("list")
@_letter_options
def letters_list(settings: Settings, /, limit: int | None, as_json: bool, **filters: Any) -> None:  # noqa: ANN401 - by name
    """One line a letter, and how many there are of each error-type."""
    from pipeline.dead_letters import list_letters

    _run_letters(list_letters(settings, _wanted(settings, filters), limit=limit, as_json=as_json))


@dead_letters.command("show")
@click.argument("place", callback=_place)
@click.option("--value", "value_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the value to this file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.pass_obj
def letters_show(settings: Settings, place: Any, value_file: Path | None, as_json: bool) -> None:  # noqa: ANN401 - a Place
    """Everything about the letter at PLACE (partition/offset)."""
    from pipeline.dead_letters import show_letter

    _run_letters(show_letter(settings, place, as_json=as_json, value_file=value_file))


@dead_letters.command("replay")
@click.argument("places", metavar="[PLACE]...", nargs=-1, callback=_place)
@click.option("--all", "everything", is_flag=True, help="Every letter.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@_letter_options
def letters_replay(settings: Settings, /, places: Any, **how: Any) -> None:  # noqa: ANN401 - click gives them by name
    """Put letters back to where they came from: those at PLACE (partition/offset), those that match, or all."""
    from pipeline.replaying import replay_letters

    everything, options = how.pop("everything"), {name: how.pop(name) for name in ("limit", "dry_run", "as_json")}
    is_filtered = any(value is not None for value in how.values())
    if bool(places) + everything + is_filtered != 1:
        raise click.UsageError("say which letters: PLACE (partition/offset), filters, or --all; one of the three")
    _run_letters(replay_letters(settings, _wanted(settings, how | {"places": places}), **options))
