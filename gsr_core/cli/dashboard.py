"""`gsr app`: the dashboard in a browser."""

from __future__ import annotations

import os
import re
import socket
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from gsr_core.cli import terminal
from gsr_core.cli.bundles import demo
from gsr_core.cli.terminal import WorkspaceOption

__all__ = ["app_"]


def app_(
    workspace: WorkspaceOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 8501,
    address: Annotated[
        str, typer.Option(help="Address to listen on; the dashboard has no passwords.")
    ] = "127.0.0.1",
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            metavar="NAME",
            help="Another name that browsers reach it by, such as a proxy's; repeatable.",
            show_default=False,
        ),
    ] = None,
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
    names = _names(script.parent / ".streamlit" / "config.toml", address, hosts or [])
    if address not in ("127.0.0.1", "localhost", "::1"):
        print(
            f"gsr: listening on {address}, by the names {', '.join(names)}: anybody who reaches it "
            "can see your data and start runs, and read what you may read; see docs/dashboard.md",
            file=sys.stderr,
        )
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(script),
        f"--server.port={port}",
        f"--server.address={address}",
        f"--server.headless={str(headless).lower()}",
        *(f"--server.allowedHosts={name}" for name in names),
        # The dashboard says itself where it is; Streamlit adds advice of its own.
        "--logger.hideWelcomeMessage=true",
    ]
    os.environ["GSR_WORKSPACE"] = str(place.root)
    sys.stdout.flush()
    os.execv(sys.executable, command)


def _names(config: Path, address: str, hosts: list[str]) -> list[str]:
    """Return the names that the dashboard goes by: those shipped, its address's and the user's.

    A request for any other name is refused; see `gsr_core.views.guard`.
    """
    names = tomllib.loads(config.read_text())["server"]["allowedHosts"]
    if address in ("0.0.0.0", "::"):
        name = socket.gethostname()
        with suppress(OSError):  # The machine may not know its own name.
            names += [str(place[4][0]) for place in socket.getaddrinfo(name, None)]
        names += [name, socket.getfqdn()]
    else:
        names.append(address)
    for host in hosts:
        if not re.fullmatch(r"\*|(\*\.)?[A-Za-z0-9_.-]+|\[?[0-9A-Fa-f:.]+\]?", host):
            terminal.fail(
                f"--host {host!a} is not a host's name; give a name or an address without scheme "
                "and port, *.NAME for all names below one, or * for any"
            )
        names.append(host.strip("[]"))
    return list(dict.fromkeys(name.lower() for name in names))
