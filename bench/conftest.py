from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from traffic import write_capture

PACKETS = int(os.environ.get("FLOWTAP_BENCH_PACKETS", "20000"))


@pytest.fixture(scope="session")
def packets() -> int:
    return PACKETS


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bench") / "imix.pcap"
    write_capture(path, PACKETS)
    return str(path)
