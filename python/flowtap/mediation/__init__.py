"""The other end: what a mediation device does."""

from flowtap.mediation.client import TaskingClient, TaskingError, request_text

__all__ = ["TaskingClient", "TaskingError", "request_text"]
