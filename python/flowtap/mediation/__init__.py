"""The other end: what a mediation device does."""

from flowtap.mediation.client import Client, RefusedError
from flowtap.mediation.datagram import DatagramTaskingClient
from flowtap.mediation.notifications import Notifications
from flowtap.mediation.numbers import NumbersError, SequenceNumbers
from flowtap.mediation.secure import NoAnswerError, TaskingClient, TaskingError, request_text

__all__ = [
    "Client",
    "DatagramTaskingClient",
    "NoAnswerError",
    "Notifications",
    "NumbersError",
    "RefusedError",
    "SequenceNumbers",
    "TaskingClient",
    "TaskingError",
    "request_text",
]
