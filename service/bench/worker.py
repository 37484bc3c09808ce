"""A load generator process: sends shares for its parent, and exits when the parent does.

Its parent starts it with SIGINT blocked: only the parent handles Ctrl-C, and then asks for the
outcome so far.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any, NoReturn

import uvloop

from service.bench.channel import Channel, Done, Finish, Finishing, Go, Ready
from service.bench.generator import Sender, Work
from service.bench.shares import Share

_TELL_EVERY_S = 1.0


def main(descriptor: int) -> None:
    """Work for the parent at the other end of an inherited socket."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_obey(socket.socket(fileno=descriptor)))
        except* ConnectionError:
            pass  # the parent ended while something was being sent to it


async def _obey(end: socket.socket) -> None:
    channel = await Channel.over(end)
    orders: asyncio.Queue[Any] = asyncio.Queue()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_listen(channel, orders))
        tasks.create_task(_work(channel, orders))


async def _listen(channel: Channel, orders: asyncio.Queue[Any]) -> NoReturn:
    while True:
        try:
            orders.put_nowait(await channel.receive())
        except EOFError:
            os._exit(0)  # the parent is gone, so no outcome is needed


async def _work(channel: Channel, orders: asyncio.Queue[Any]) -> NoReturn:
    work: Work = await orders.get()
    while True:
        await _send_share(channel, orders, work)


async def _send_share(channel: Channel, orders: asyncio.Queue[Any], work: Work) -> None:
    share: Share = await orders.get()
    sender = Sender(work, share)
    await sender.open()
    await channel.send(Ready())
    go: Go = await orders.get()
    sending = asyncio.create_task(sender.run(go.start, go.window))
    telling = asyncio.create_task(_tell(channel, sender)) if go.tell else None
    finish: asyncio.Task[Finish] = asyncio.create_task(orders.get())
    await asyncio.wait([sending, finish], return_when=asyncio.FIRST_COMPLETED)
    if sending.done():
        sending.result()  # raises its error if it failed
        await channel.send(Done())
        await finish
    await channel.send(Finishing(sender.answered))
    sending.cancel()
    if telling is not None:
        telling.cancel()
    await asyncio.wait([sending])
    await channel.send(await sender.close())


async def _tell(channel: Channel, sender: Sender) -> NoReturn:
    while True:
        await asyncio.sleep(_TELL_EVERY_S)
        await channel.send(sender.tally())
