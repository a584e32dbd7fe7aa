"""`callstream plan`: what a number of live calls takes."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.planning import Costs, Plan

_ENCODINGS = {"pcm_s16le": 2, "mulaw": 1, "alaw": 1}


MAX_S = 604_800.0


class _Number(click.FloatRange):
    """Also refuses what is no number, which is in every range for click."""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is no number", param, ctx)
        return number


@click.command()
@click.option("--calls", required=True, type=click.IntRange(1), help="Live calls at the busiest time.")
@click.option("--speech", default=0.4, show_default=True, type=_Number(0, 1), help="Share of speech in each channel.")
@click.option(
    "--language-seconds",
    default=32.0,
    show_default=True,
    type=_Number(10, MAX_S),
    help="Speech until a channel's language is known; 12 where all speak languages that the model knows well. All of it with "
    "CALLSTREAM_LANGUAGE_ENOUGH=0.",
)
@click.option("--call-seconds", default=300.0, show_default=True, type=_Number(1, MAX_S), help="Length of a call.")
@click.option("--chunk-ms", default=250, show_default=True, type=click.IntRange(20, 10_000), help="Audio in a record.")
@click.option("--channels", default=2, show_default=True, type=click.IntRange(1, 8), help="Channels of a call.")
@click.option("--sample-rate", default=8000, show_default=True, type=click.IntRange(8000, 48_000), help="Hz.")
@click.option("--encoding", default="pcm_s16le", show_default=True, type=click.Choice(list(_ENCODINGS)), help="Of the audio.")
@click.option("--copies", default=3, show_default=True, type=click.IntRange(1), help="Copies of each partition.")
@click.option(
    "--processor",
    default="vnni",
    show_default=True,
    type=click.Choice(["vnni", "avx2", "here"]),
    help="AVX-512 with VNNI (Intel since Cascade Lake, AMD since Zen 4), one with AVX2 alone (Zen 3; Zen 1 takes more than "
    "twice as much), or the one that this runs on: its CPU is measured with the models of the settings, which takes half a "
    "minute with whisper-base. Memory is whisper-base's.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def plan(
    settings: Settings,
    calls: int,
    speech: float,
    language_seconds: float,
    call_seconds: float,
    chunk_ms: int,
    channels: int,
    sample_rate: int,
    encoding: str,
    copies: int,
    processor: str,
    as_json: bool,
) -> None:
    """Compute workers, cores, memory, partitions, broker traffic and disk from what was measured (docs/performance.md)."""
    import msgspec

    from pipeline.planning import TooMuchForACoreError, Traffic
    from pipeline.planning import plan as planned

    traffic = Traffic(
        calls=calls,
        speech=speech,
        language_s=language_seconds if settings.language_enough else math.inf,
        call_s=call_seconds,
        chunk_ms=chunk_ms,
        channels=channels,
        sample_rate_hz=sample_rate,
        bytes_per_sample=_ENCODINGS[encoding],
    )
    costs = _as_set(_costs(processor, settings), settings)
    try:
        found = planned(traffic, costs, copies)
    except TooMuchForACoreError as error:
        _fail(str(error))
    click.echo(msgspec.json.encode(found) if as_json else "\n".join(_lines(found, costs.latest_s, copies)))


def _costs(processor: str, settings: Settings) -> Costs:
    from pipeline.models.errors import ModelError
    from pipeline.planning import PROCESSORS

    if processor in PROCESSORS:
        return PROCESSORS[processor]
    from pipeline.planning_here import costs_here

    try:
        return costs_here(settings, lambda line: click.echo(f"callstream: {line}", err=True))
    except ModelError as error:
        _fail(str(error))


def _as_set(costs: Costs, settings: Settings) -> Costs:
    """With what the settings take for enough, and without drafts where they are off.

    The utterance in which enough is reached is heard to its end; 0 is never.
    """
    import msgspec

    limits = settings.voiceprint_enough_s, settings.voice_enough_s
    voiceprint_s, voice_s = (one + costs.utterance_s / 2 if one else math.inf for one in limits)
    of_drafts = {} if settings.drafts else {"drafted": 0.0, "in_vain": 0.0}
    return msgspec.structs.replace(costs, voiceprint_enough_s=voiceprint_s, voice_enough_s=voice_s, **of_drafts)


def _fail(message: str) -> NoReturn:
    click.echo(f"callstream: {message}", err=True)
    sys.exit(1)


def _lines(found: Plan, latest_s: float, copies: int) -> list[str]:
    written = ", ".join(f"{name} {_bytes(rate)}/s" for name, rate in found.written_bytes_per_s.items())
    return [
        f"cores       {found.cores:g}, where 99 of 100 results come within {latest_s:g} s",
        f"workers     {found.workers} of one core and {found.worker_memory_mb:,.0f} MB, {found.calls_per_worker:g} calls each"
        " (CALLSTREAM_INFERENCE_THREADS=1)",
        f"partitions  {found.partitions} of each topic (CALLSTREAM_PARTITIONS)",
        f"topics      {written}",
        f"brokers     {_bytes(found.broker_in_bytes_per_s)}/s in, {_bytes(found.broker_out_bytes_per_s)}/s out,"
        f" {_bytes(found.disk_bytes)} on disk, {copies} copies, uncompressed",
    ]


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}" if count < 1000 else f"{count:,.0f} {unit}"
        count /= 1000
    raise AssertionError
