"""``python -m flowtap``."""

from flowtap.cli.main import main

main()
