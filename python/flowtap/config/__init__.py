"""The configuration file."""

from flowtap.config.load import LoadedConfiguration, load, read_secret
from flowtap.config.schema import Configuration

__all__ = ["Configuration", "LoadedConfiguration", "load", "read_secret"]
