"""A lawful-intercept packet tap: match, copy, encapsulate, deliver, account.

The names here are the embedding interface: compile criteria into a `FilterTable`, then feed frames to an
`Engine` inside your own tap, or let a `Tap` read captures. ``flowtap.dtcp`` holds the tasking protocol,
``flowtap.adapters`` the bridges to other capture libraries.
"""

from flowtap._flowtap import (
    AddressSpace,
    BpfProgram,
    ContentDestination,
    Copy,
    CopyBatch,
    Criteria,
    CriterionStats,
    DestinationStats,
    Engine,
    Explanation,
    FilterTable,
    LinkType,
    Receiver,
    Replay,
    ReplayReport,
    Stats,
    Tap,
    __version__,
    capture_link_type,
    explain,
)
from flowtap.errors import (
    CaptureError,
    ConfigurationError,
    CriteriaError,
    DataPlaneError,
    FlowtapError,
    PermissionMissingError,
)

__all__ = [
    "AddressSpace",
    "BpfProgram",
    "CaptureError",
    "ConfigurationError",
    "ContentDestination",
    "Copy",
    "CopyBatch",
    "Criteria",
    "CriteriaError",
    "CriterionStats",
    "DataPlaneError",
    "DestinationStats",
    "Engine",
    "Explanation",
    "FilterTable",
    "FlowtapError",
    "LinkType",
    "PermissionMissingError",
    "Receiver",
    "Replay",
    "ReplayReport",
    "Stats",
    "Tap",
    "__version__",
    "capture_link_type",
    "explain",
]
