"""A TCP link that can be slow, stall, break, or be cut: stands before one server. One JSON line on standard input sets it anew.

    proxy.py LISTEN_HOST LISTEN_PORT SERVER_HOST SERVER_PORT

    {"delay_ms": 5, "jitter_ms": 5, "stall": 0.01, "stall_ms": 200, "break": 0.001, "cut": false}

stall: the part of chunks that come `stall_ms` late with all that follow (what a lost packet costs a TCP stream); break: the part of
chunks at which the connection is reset; cut: nothing passes, in either direction, and nothing is refused.
"""
import asyncio
import json
import random
import sys

CHUNK = 1 << 16
IN_FLIGHT = 64  # chunks of one direction that are on their way


class Link:
    def __init__(self) -> None:
        self.delay = self.jitter = self.stall = self.stall_time = self.breaks = 0.0
        self.open = asyncio.Event()
        self.open.set()

    def set(self, text: str) -> None:
        values = json.loads(text)
        self.delay, self.jitter = values.get("delay_ms", 0) / 1e3, values.get("jitter_ms", 0) / 1e3
        self.stall, self.stall_time = values.get("stall", 0), values.get("stall_ms", 200) / 1e3
        self.breaks = values.get("break", 0)
        (self.open.clear if values.get("cut") else self.open.set)()

    def latency(self) -> float:
        return self.delay + random.random() * self.jitter + (self.stall_time if random.random() < self.stall else 0)


async def carry(link: Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Chunks leave in order, each no earlier than its latency after it came."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue = asyncio.Queue(IN_FLIGHT)

    async def read() -> None:
        while chunk := await source.read(CHUNK):
            if random.random() < link.breaks:
                raise ConnectionResetError
            await queue.put((loop.time() + link.latency(), chunk))
        await queue.put((loop.time(), b""))

    async def write() -> None:
        while True:
            due, chunk = await queue.get()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            await link.open.wait()
            if not chunk:
                return
            sink.write(chunk)
            await sink.drain()

    await asyncio.gather(read(), write())
    if sink.can_write_eof():
        sink.write_eof()


async def serve(link: Link, server: tuple[str, int], near: tuple) -> None:
    far = None
    tasks = []
    try:
        await link.open.wait()
        far = await asyncio.open_connection(*server)
        tasks = [asyncio.create_task(carry(link, near[0], far[1])), asyncio.create_task(carry(link, far[0], near[1]))]
        await asyncio.gather(*tasks)
    except OSError:
        pass
    finally:
        for task in tasks:
            task.cancel()
        for writer in [near[1], *([far[1]] if far else [])]:
            writer.transport.abort()


async def main() -> None:
    host, port, server_host, server_port = sys.argv[1:]
    link = Link()
    server = (server_host, int(server_port))
    await asyncio.start_server(lambda *near: serve(link, server, near), host, int(port))
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print("ready", flush=True)
    while line := await commands.readline():
        link.set(line.decode())
        print("set", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
