"""Would `faust worker` start the web server of an app that says web_enabled=False?"""

import sys
from typing import NoReturn

import faust
from faust.cli.faust import cli


class Worker(faust.Worker):
    """The worker, stopped where it would begin to run."""

    def execute_from_commandline(self) -> NoReturn:
        """Tell whether the app would start its web server."""
        starts = app.web in app.boot_strategy.web_server()
        print(f"web_enabled=False; the web server is started: {starts}, on {app.conf.web_bind}:{app.conf.web_port}")
        print("REPRODUCED" if starts else "not reproduced")
        sys.exit(0 if starts else 1)


app = faust.App("reproduce", web_enabled=False, Worker=Worker)
cli(args=["--quiet", "worker"], app=app)
