"""Python's websockets as a peer of scripts/compare: `/echo`, and channels on `/ws` with `broadcast`.

    server.py [--port N]   listens on 127.0.0.1; without a port, on a free one
    server.py --version    says what is compared

SIGUSR2 collects garbage, so that memory can be read without it.
"""

import argparse
import asyncio
import gc
import json
import platform
import signal
import time
from http import HTTPStatus
from importlib.util import find_spec

import uvloop
import websockets
from websockets.asyncio.server import broadcast, serve
from websockets.exceptions import ConnectionClosed


class Channels:
    """The subscribers of each channel."""

    def __init__(self):
        self.subscribers = {}
        self.offset = 0

    def envelope(self, channel, data):
        """What ringwire sends its subscribers, so that as many bytes are on the wire."""
        self.offset += 1
        message = {
            "type": "message",
            "channel": channel,
            "from": None,
            "data": data,
            "offset": self.offset,
            "timestamp": round(time.time(), 3),
        }
        return json.dumps(message, separators=(",", ":")).encode()

    async def command(self, connection, message):
        """One subscribe or publish."""
        request = json.loads(message)
        channel = request["channel"]
        if request["type"] == "subscribe":
            self.subscribers.setdefault(channel, set()).add(connection)
            answer = {"type": "subscribed", "channel": channel, "id": request.get("id")}
            answer |= {"offset": self.offset, "epoch": 1}
            await connection.send(json.dumps(answer, separators=(",", ":")))
        elif request["type"] == "publish":
            envelope = self.envelope(channel, request["data"])
            broadcast(self.subscribers.get(channel, ()), envelope, text=True)
        else:
            await connection.close(1008, "subscribe or publish")

    async def serve(self, connection):
        """A connection of `/ws`, to its end."""
        try:
            async for message in connection:
                await self.command(connection, message)
        finally:
            for subscribers in self.subscribers.values():
                subscribers.discard(connection)


async def echo(connection):
    """A connection of `/echo`, to its end."""
    async for message in connection:
        await connection.send(message)


def refuse(connection, request):
    """Answers requests for other paths."""
    if request.path not in ("/echo", "/ws"):
        return connection.respond(HTTPStatus.NOT_FOUND, "try /echo or /ws\n")
    return None


async def run(port):
    """Serves until a signal ends the process."""
    channels = Channels()

    async def handle(connection):
        try:
            await (echo if connection.request.path == "/echo" else channels.serve)(connection)
        except ConnectionClosed:
            pass  # a client that ended without a close frame

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, gc.collect)
    options = {"compression": None, "process_request": refuse}
    async with serve(handle, "127.0.0.1", port, **options) as server:
        address = server.sockets[0].getsockname()
        print(f"listening on ws://127.0.0.1:{address[1]}/echo", flush=True)
        await asyncio.get_running_loop().create_future()


def version():
    """What is compared."""
    python = platform.python_version()
    extension = "with" if find_spec("websockets.speedups") else "WITHOUT"
    return f"websockets {websockets.__version__} ({extension} its C extension), uvloop {uvloop.__version__}, Python {python}"


def main():
    """Reads the arguments and serves."""
    parser = argparse.ArgumentParser(description="Python's websockets as a peer of scripts/compare")
    parser.add_argument("--version", action="version", version=version())
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    uvloop.run(run(parser.parse_args().port))


if __name__ == "__main__":
    main()
