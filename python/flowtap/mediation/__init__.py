"""The other end: what a mediation device does."""

from flowtap.mediation.client import TaskingClient, TaskingError, request_text
from flowtap.mediation.datagram import DatagramTaskingClient

__all__ = ["DatagramTaskingClient", "TaskingClient", "TaskingError", "request_text"]
