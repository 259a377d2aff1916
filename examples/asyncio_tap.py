"""The engine in an asyncio program: frames come from a queue, copies leave by UDP, the table changes.

python examples/asyncio_tap.py CAPTURE 192.0.2.10
"""

from __future__ import annotations

import asyncio
import sys

import pcapy

from flowtap import Criteria, Engine, FilterTable, LinkType


async def read(capture: str, queue: asyncio.Queue[bytes | None]) -> int:
    """Puts every frame of a capture into the queue; returns the link type before the first one."""
    handle = pcapy.open_offline(capture)

    async def pump() -> None:
        while True:
            header, data = handle.next()
            if header is None:
                break
            await queue.put(data)
        await queue.put(None)

    task = asyncio.create_task(pump())
    task.add_done_callback(lambda done: done.result())
    link_type: int = handle.datalink()
    return link_type


async def deliver(capture: str, subject: str) -> tuple[int, int]:
    """Sends the packets of one host to a local receiver; returns how many were sent and arrived."""
    arrived = 0

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            nonlocal arrived
            arrived += len(data) > 0 and bool(addr)

    loop = asyncio.get_running_loop()
    receiver, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    sender, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=receiver.get_extra_info("sockname")
    )
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=64)
    engine = Engine(FilterTable.compile([]), link_type=LinkType(await read(capture, queue)))
    # Tasked while it runs: the table is changed in one step.
    engine.install(FilterTable.compile([Criteria(id=1, source=subject)]))
    sent = 0
    while (frame := await queue.get()) is not None:
        for copy in engine.feed(frame):
            sender.sendto(bytes(copy))
            sent += 1
    for _ in range(100):
        if arrived == sent:
            break
        await asyncio.sleep(0.01)
    sender.close()
    receiver.close()
    return sent, arrived


if __name__ == "__main__":
    print("{} sent, {} arrived".format(*asyncio.run(deliver(sys.argv[1], sys.argv[2]))))
