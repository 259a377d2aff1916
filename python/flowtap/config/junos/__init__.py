"""JUNOS configurations: reading them, and making flowtap's own out of them."""

from flowtap.config.junos.emit import curly, set_lines
from flowtap.config.junos.folder import FolderError, check, report_object, report_of_error, report_text, write
from flowtap.config.junos.importing import Import, import_text
from flowtap.config.junos.syntax import Node, Tree, parse
from flowtap.config.junos.tokens import JunosError, decode

__all__ = [
    "FolderError",
    "Import",
    "JunosError",
    "Node",
    "Tree",
    "check",
    "curly",
    "decode",
    "import_text",
    "parse",
    "report_object",
    "report_of_error",
    "report_text",
    "set_lines",
    "write",
]
