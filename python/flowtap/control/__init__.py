"""The control plane: decisions about tasking, without I/O, clock or threads."""

from flowtap.control.audit import AuditRecord, AuditRow, ChainError, verify
from flowtap.control.authorize import Refused
from flowtap.control.events import Congested, CopiesLost, Ended, Happening, Purged, Restarted
from flowtap.control.journal import JournalRow, Usage
from flowtap.control.model import (
    PERMISSION_APPROVE,
    PERMISSION_CHANGE,
    PERMISSION_TASK,
    PERMISSION_VIEW,
    Bandwidth,
    ContentDestination,
    ControlSource,
    Count,
    Intercept,
    Now,
    Policy,
    Principal,
    State,
)
from flowtap.control.ports import (
    DataPlane,
    FilterFault,
    Filters,
    Loss,
    PortError,
    Reach,
    Space,
    Store,
    Transaction,
)
from flowtap.control.registry import ControlPlane, Tasked

__all__ = [
    "PERMISSION_APPROVE",
    "PERMISSION_CHANGE",
    "PERMISSION_TASK",
    "PERMISSION_VIEW",
    "AuditRecord",
    "AuditRow",
    "Bandwidth",
    "ChainError",
    "Congested",
    "ContentDestination",
    "ControlPlane",
    "ControlSource",
    "CopiesLost",
    "Count",
    "DataPlane",
    "Ended",
    "FilterFault",
    "Filters",
    "Happening",
    "Intercept",
    "JournalRow",
    "Loss",
    "Now",
    "Policy",
    "PortError",
    "Principal",
    "Purged",
    "Reach",
    "Refused",
    "Restarted",
    "Space",
    "State",
    "Store",
    "Tasked",
    "Transaction",
    "Usage",
    "verify",
]
