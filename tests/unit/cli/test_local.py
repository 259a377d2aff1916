"""Questions over the local socket."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

from flowtap.cli.local import ask


def test_who_finds_a_line_waits_in_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as before:
        listening.bind(str(path))
        listening.listen(0)
        listening.settimeout(3)
        before.connect(str(path))

        def serve() -> None:
            time.sleep(0.2)
            listening.accept()[0].close()
            accepted, _ = listening.accept()
            with accepted, accepted.makefile("rb") as asked:
                asked.readline()
                accepted.sendall(b'{"name": "flowtap"}\n')

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            assert ask(path, "status") == {"name": "flowtap"}
        finally:
            serving.join()
