"""What the service manager is told: that the tap is ready, and that it ends (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

__all__ = ["tell_manager"]


def tell_manager(state: str) -> None:
    """Tells the service manager, where one has asked for it; that it does not listen ends nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # A name that begins with @ is one without a file (unix(7)).
    place = f"\0{address[1:]}" if address.startswith("@") else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.connect(place)
        connection.send(state.encode())
