"""The configuration file."""

from flowtap.config.load import (
    LoadedConfiguration,
    load,
    read_secret,
    refuse_written_by_others,
    without_line_end,
)
from flowtap.config.schema import Configuration

__all__ = [
    "Configuration",
    "LoadedConfiguration",
    "load",
    "read_secret",
    "refuse_written_by_others",
    "without_line_end",
]
