"""`gsr app`: the dashboard in a browser."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from gsr_core.cli import terminal
from gsr_core.cli.browser import url_of
from gsr_core.cli.bundles import demo
from gsr_core.cli.terminal import WorkspaceOption

__all__ = ["app_"]


def app_(
    workspace: WorkspaceOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 8501,
    address: Annotated[
        str, typer.Option(help="Address to listen on; the dashboard has no passwords.")
    ] = "127.0.0.1",
    headless: Annotated[bool, typer.Option(help="Do not open a browser.")] = False,
    example: Annotated[
        bool, typer.Option("--demo", help="Prepare the built-in example first, if it is missing.")
    ] = False,
) -> None:
    """Open the dashboard in a browser."""
    place = terminal.open_workspace(workspace)
    if example:
        from gsr_core.data.bundle import list_bundles

        if "coloured-digits" not in [bundle.name for bundle in list_bundles(place)]:
            demo(workspace=place.root)
    if address not in ("127.0.0.1", "localhost", "::1"):
        print(
            f"gsr: listening on {address}: anybody who reaches it can see your data and start "
            "runs; see docs/dashboard.md",
            file=sys.stderr,
        )
    # A wheel has the dashboard's files inside the package; a checkout has them beside it.
    package = Path(__file__).resolve().parents[1]
    script = next(
        (
            folder / "app.py"
            for folder in (package / "_dashboard", package.parent)
            if (folder / "app.py").is_file()
        ),
        None,
    )
    if script is None:
        terminal.fail("the dashboard's files are missing; install gsr-core again")
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(script),
        f"--server.port={port}",
        f"--server.address={address}",
        "--server.headless=true",
    ]
    if not headless:
        subprocess.Popen(
            [sys.executable, "-m", "gsr_core.cli.browser", url_of(address, port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    os.environ["GSR_WORKSPACE"] = str(place.root)
    sys.stdout.flush()
    os.execv(sys.executable, command)
