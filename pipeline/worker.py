"""`callstream worker`: the agents of one process."""

import logging
import sys
from collections.abc import Sequence

from pipeline.app import CallstreamWorker, UnknownAgentError, build_app, installed_agents
from pipeline.settings import Settings
from pipeline.stage import StageRunner


def chosen_runners(names: Sequence[str], settings: Settings) -> list[StageRunner]:
    """A runner for each stage of the named agents. Raises UnknownAgentError."""
    installed = installed_agents()
    unknown = [name for name in names if name not in installed]
    if unknown:
        raise UnknownAgentError(f"no agent is called {', '.join(unknown)}; there are {', '.join(sorted(installed))}")
    stages = [stage for name in dict.fromkeys(names) for stage in installed[name].load()(settings)]
    return [StageRunner(build_app(stage.name, settings), stage, settings) for stage in stages]


def run(names: Sequence[str], settings: Settings) -> int:
    """Run the agents until SIGTERM or SIGINT; the exit code is 0 when the process was asked to end."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for name in ("faust", "mode", "aiokafka", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level)))
    worker = CallstreamWorker(chosen_runners(names, settings), settings)
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
