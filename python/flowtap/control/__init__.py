"""The control plane: decisions about tasking, without I/O, clock or threads."""

from flowtap.control.audit import AuditRecord, AuditRow, ChainError, verify
from flowtap.control.authorize import Refused
from flowtap.control.model import (
    PERMISSION_TASK,
    ContentDestination,
    ControlSource,
    Count,
    Intercept,
    Now,
    Principal,
)
from flowtap.control.ports import DataPlane, FilterCheck, FilterFault, PortError, Store, Transaction
from flowtap.control.registry import ControlPlane, Ended, Policy, Tasked

__all__ = [
    "PERMISSION_TASK",
    "AuditRecord",
    "AuditRow",
    "ChainError",
    "ContentDestination",
    "ControlPlane",
    "ControlSource",
    "Count",
    "DataPlane",
    "Ended",
    "FilterCheck",
    "FilterFault",
    "Intercept",
    "Now",
    "Policy",
    "PortError",
    "Principal",
    "Refused",
    "Store",
    "Tasked",
    "Transaction",
    "verify",
]
