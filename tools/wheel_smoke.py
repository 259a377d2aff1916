"""Builds the wheel with pip, installs it into a clean environment without cargo and runs the demo there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Returns 0 when the installed wheel's demo says that the accounts agree."""
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder) / "wheels"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(wheels), str(ROOT)], check=True)
        (wheel,) = wheels.glob("*.whl")
        if "-cp311-abi3-" not in wheel.name:
            print(f"{wheel.name}: not an abi3 wheel for CPython 3.11 and newer")
            return 1
        environment = Path(folder) / "environment"
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q", str(wheel)]
        subprocess.run(install, check=True)
        # A path without cargo, a folder that is not the clone: only the wheel can serve.
        variables = {"PATH": "/usr/bin:/bin", "HOME": folder, "LANG": os.environ.get("LANG", "C.UTF-8")}
        demo = subprocess.run(
            [str(environment / "bin" / "flowtap"), "demo"],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        if demo.returncode != 0 or "accounts agree" not in demo.stdout.splitlines()[-1:][0]:
            print(demo.stdout, demo.stderr, sep="\n")
            return 1
        print(f"{wheel.name}: installs without cargo, its demo says: {demo.stdout.splitlines()[-1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
