import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path


def test_a_machine_that_never_saw_streamlit_is_asked_nothing(tmp_path: Path):
    """Without a home directory of its own, Streamlit asks for an e-mail address and waits."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "HOME": str(tmp_path), "BROWSER": "true"}
    log = tmp_path / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gsr_core.cli", "app", "--port", str(port)),
                *("--workspace", str(tmp_path / "workspace")),
            ],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}/_stcore/health"
            for _ in range(1200):
                assert process.poll() is None, log.read_text()
                try:
                    with urllib.request.urlopen(address, timeout=5) as answer:
                        assert answer.status == 200
                        break
                except OSError:
                    time.sleep(0.1)
            else:
                raise AssertionError(f"the dashboard did not come up: {log.read_text()}")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert "Email" not in log.read_text()
