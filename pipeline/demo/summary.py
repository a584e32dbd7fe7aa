"""What the demo says at its end: a table of what was found on each channel, and every task's URL with its answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from schemas.tasks import Technology

Answers = Mapping[Technology, Any]
_ANSWER_CHARS = 220


def channel_table(call_id: str, answers: Answers) -> Table:
    """One row for each channel of a call, from the answers of the query service."""
    table = Table("channel", "speech", "segments", "voiceprint", "language", "gender", title=f"call {escape(call_id)}")
    for segments in _channels(answers, Technology.VOICE_ACTIVITY_DETECTION):
        number = segments["channel_number"]
        table.add_row(
            str(number),
            f"{segments['speech_length']:.2f} s",
            str(len(segments["segments"])),
            _voiceprint(_of_channel(answers, Technology.VOICEPRINT_EXTRACTION, number)),
            _language(_of_channel(answers, Technology.LANGUAGE_IDENTIFICATION, number)),
            _gender(_of_channel(answers, Technology.GENDER_IDENTIFICATION, number)),
        )
    return table


def comparison_table(names: Sequence[str], scores: Mapping[str, Any]) -> Table:
    """Who is alike whom: log-likelihood ratios (natural log)."""
    title = "voices compared (log-likelihood ratio: 0 undecided, higher more alike)"
    table = Table("", *names, title=title, min_width=len(title))
    width = scores["columns_count"]
    for row, name in enumerate(names):
        table.add_row(name, *(f"{value:+.2f}" for value in scores["values"][row * width : (row + 1) * width]))
    return table


def print_answers(console: Console, answers: Sequence[tuple[str, bytes]]) -> None:
    """The URL of each task, and what GET answers, cut to a line or two."""
    for url, body in answers:
        text = body.decode()
        cut = text if len(text) <= _ANSWER_CHARS else f"{text[:_ANSWER_CHARS]}… ({len(text)} characters)"
        console.print(f"[bold]GET {url}[/]", highlight=False, soft_wrap=True)
        console.print(f"  {cut}", markup=False, highlight=False, soft_wrap=True)


def _channels(answers: Answers, technology: Technology) -> list[dict[str, Any]]:
    result = answers.get(technology, {}).get("result") or {}
    channels: list[dict[str, Any]] = result.get("channels", [])
    return channels


def _of_channel(answers: Answers, technology: Technology, number: int) -> dict[str, Any]:
    return next((channel for channel in _channels(answers, technology) if channel["channel_number"] == number), {})


def _voiceprint(channel: Mapping[str, Any]) -> str:
    return f"{channel['voiceprint'][:12]}… of {channel['speech_length']:.1f} s" if channel else "-"


def _language(channel: Mapping[str, Any]) -> str:
    scores = channel.get("scores") or []
    return ", ".join(f"{score['identifier']} {score['probability']:.3f}" for score in scores[:2]) or "-"


def _gender(channel: Mapping[str, Any]) -> str:
    if "male" not in channel:
        return "-"
    name = max(("male", "female"), key=lambda one: float(channel[one]["probability"]))
    return f"{name} {channel[name]['probability']:.3f} (LLR {channel[name]['score_llr']:+.1f})"
