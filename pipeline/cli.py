"""The command line: one command each for the broker, the topics, the agents, the query service, and for trying it all."""

import asyncio
import io
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from pipeline.accuracy.calibrate_command import calibrate
from pipeline.accuracy.command import evaluate
from pipeline.connection import check
from pipeline.letters_command import dead_letters
from pipeline.models.errors import ModelError, ModelsManifestError, UnknownModelError
from pipeline.output import is_of_output
from pipeline.planning_command import plan
from pipeline.query.keys_command import keys
from pipeline.settings import Settings, SettingsError, describe, load
from schemas.media import MAX_CALL_ID_CHARS

# numpy's products are small beside the models, and work is spread over utterances: more threads of OpenBLAS only wait, which
# doubled the CPU that a worker takes on two cores. It is read when numpy is imported, behind this.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
ENCODINGS = ("pcm_s16le", "mulaw", "alaw")


def _settings_help() -> str:
    rows = [f"  {name} ({default or 'empty'}): {meaning}" for name, default, meaning in describe()]
    return "\b\nSettings (environment variables, with their defaults):\n" + "\n".join(rows)


class _Callstream(click.Group):
    """Loads the settings before any command, and says every expected fault in one line."""

    def main(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - click's own signature
        """What a terminal's encoding does not have becomes a question mark, not the end of the command."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        return super().main(*arguments, **named)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        try:
            ctx.obj = load()
            check(ctx.obj)
            # What matters of it comes as an error of ours; a worker sets its own levels.
            logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
            return super().invoke(ctx)
        except (ModelsManifestError, SettingsError) as error:
            _say(str(error))
            sys.exit(EXIT_USAGE)
        except OSError as error:
            if not is_of_output(error) or isinstance(error, BrokenPipeError):  # click ends without a word then
                raise
            _say(f"the output cannot be written: {error.strerror}")
            sys.exit(EXIT_FAILED)


def _say(message: str) -> None:
    click.echo(f"callstream: {message}", err=True)


def _text(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Refuses what is not UTF-8."""
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is not UTF-8") from None
    return value


def _call_id(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Refuses what no call can be called."""
    if value is not None and not 1 <= len(value) <= MAX_CALL_ID_CHARS:
        raise click.BadParameter(f"a call id has 1 to {MAX_CALL_ID_CHARS} characters")
    return _text(context, option, value)


@click.group(cls=_Callstream, epilog=_settings_help(), context_settings={"max_content_width": 140})
@click.version_option(package_name="callstream")
def main() -> None:
    """Live calls in, answers out, on Kafka."""


@main.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--keep", is_flag=True, help="Keep everything up until Ctrl-C.")
@click.option("--realtime", is_flag=True, help="Send the audio as slowly as it was spoken.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
@click.pass_obj
def demo(settings: Settings, files: tuple[Path, ...], keep: bool, realtime: bool, as_json: bool) -> None:
    """Run everything on this machine: stream a call (a bundled one by default), show its progress and its results."""
    from pipeline.demo.run import run_demo

    sys.exit(run_demo(settings, list(files), keep=keep, realtime=realtime, as_json=as_json))


@main.command()
@click.option("--port", default=0, type=click.IntRange(0, 65_535), help="Port on 127.0.0.1; 0 takes a free one.")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder that keeps the data.")
@click.option("--in-memory", is_flag=True, help="librdkafka's in-memory broker, for trying out.")
@click.pass_obj
def broker(settings: Settings, port: int, data_dir: Path | None, in_memory: bool) -> None:
    """Run the embedded broker in the foreground."""
    if in_memory and (port or data_dir is not None):
        raise click.UsageError("--in-memory goes with neither --port nor --data-dir")
    from pipeline.broker.launch import run_foreground
    from pipeline.topics import partition_counts

    sys.exit(run_foreground(settings.cache_dir, port, data_dir, in_memory, partition_counts(settings) if in_memory else None))


@main.command()
@click.pass_obj
def topics(settings: Settings) -> None:
    """Create the topics."""
    from pipeline.topics import TopicsError, create_topics

    try:
        for warning in asyncio.run(create_topics(settings)):
            _say(warning)
    except TopicsError as error:
        _say(str(error))
        sys.exit(EXIT_FAILED)


@main.command()
@click.option(
    "--agents", default="intake,vad,extraction,language,gender,comparison", show_default=True, help="Which agents to run."
)
@click.pass_obj
def worker(settings: Settings, agents: str) -> None:
    """Run the agents."""
    from pipeline.app import UnknownAgentError
    from pipeline.refusal import BrokerRefusedError
    from pipeline.scoring.profile import ProfileError
    from pipeline.topics import TopicsError
    from pipeline.worker import run

    names = [name.strip() for name in agents.split(",") if name.strip()]
    if not names:
        raise click.UsageError("--agents names no agent")
    try:
        sys.exit(run(names, settings))
    except UnknownAgentError as error:
        raise click.UsageError(str(error)) from None
    except ProfileError as error:
        _say(f"CALLSTREAM_CALIBRATION_PROFILE: {error}")
        sys.exit(EXIT_USAGE)
    except ModelsManifestError:
        raise
    except (BrokerRefusedError, ModelError, TopicsError) as error:
        _say(str(error))
        sys.exit(EXIT_FAILED)


@main.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port; 0 takes a free one.")
@click.pass_obj
def query(settings: Settings, host: str | None, port: int | None) -> None:
    """Run the query service."""
    import msgspec

    from pipeline.query.server import run

    changed = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    sys.exit(run(msgspec.structs.replace(settings, **changed)))


main.add_command(keys)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--call-id", callback=_call_id, help="The call's id, for one file; derived from the file's name by default.")
@click.option("--chunk-ms", default=500, show_default=True, type=click.IntRange(10, 10_000), help="Length of a chunk.")
@click.option("--realtime", is_flag=True, help="As slowly as it was spoken.")
@click.option("--encoding", default="pcm_s16le", show_default=True, type=click.Choice(ENCODINGS))
@click.option("--options", callback=_text, help="The call's options, JSON.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
@click.pass_obj
def send(settings: Settings, /, files: tuple[Path, ...], as_json: bool, **how: Any) -> None:  # noqa: ANN401 - click gives them by name
    """Produce media files as calls and print their task ids."""
    from pipeline.sending import SendError, SendOptions, send_files

    if how["call_id"] and len(files) > 1:
        raise click.UsageError("--call-id goes with one file")
    try:
        asyncio.run(send_files(settings, files, SendOptions(**how), as_json=as_json))
    except SendError as error:
        _say(str(error))
        sys.exit(EXIT_USAGE if error.is_usage else EXIT_FAILED)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(EXIT_FAILED)


@main.command()
@click.option("--call-id", callback=_call_id, help="Only this call, from its first record until its tasks are final.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
@click.pass_obj
def watch(settings: Settings, call_id: str | None, as_json: bool) -> None:
    """Follow the results topic."""
    from pipeline.watching import WatchError, watch_results

    try:
        sys.exit(asyncio.run(watch_results(settings, call_id, as_json=as_json)))
    except WatchError as error:
        _say(str(error))
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_DONE if call_id is None else EXIT_FAILED)  # it is not known how the call ends


main.add_command(dead_letters)
main.add_command(evaluate)
main.add_command(calibrate)
main.add_command(plan)


@main.group()
def models() -> None:
    """List, fetch and verify the models."""


@models.command("list")
@click.pass_obj
def models_list(settings: Settings) -> None:
    """Say which models there are, and which are here."""
    from pipeline.models.command import list_models

    _run_models(list_models, settings)


@models.command("fetch")
@click.argument("names", nargs=-1)
@click.pass_obj
def models_fetch(settings: Settings, names: tuple[str, ...]) -> None:
    """Fetch models into the cache folder; without names those that a worker needs."""
    from pipeline.models.command import fetch_models

    _run_models(fetch_models, settings, list(names) or None)


@models.command("verify")
@click.argument("names", nargs=-1)
@click.pass_obj
def models_verify(settings: Settings, names: tuple[str, ...]) -> None:
    """Check the models that are here against their originals' outputs."""
    from pipeline.models.command import verify_models

    _run_models(verify_models, settings, list(names) or None)


def _run_models(command: Any, *arguments: Any) -> None:  # noqa: ANN401 - one of the three above
    try:
        sys.exit(EXIT_DONE if command(*arguments) else EXIT_FAILED)
    except ModelsManifestError:
        raise
    except UnknownModelError as error:
        raise click.UsageError(str(error)) from None
    except (ModelError, OSError) as error:
        if is_of_output(error):
            raise
        _say(str(error))
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
