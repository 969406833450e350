"""Senders and receivers of the benchmarks, run inside a namespace: `python -m labs.bench_traffic WHAT ...`.

The sender hands packets to the kernel in batches (sendmmsg), so that it measures the path and not itself. The kernel
counts what arrives; one-way delay is from the sender's clock before the system call to the kernel's receive timestamp,
which on one machine are the same clock.
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import sys
import time

from mip6.system.manymessages import outgoing
from mip6.system.manymessages import send as send_many

PORT, DELAY_PORT = 9, 10
HEADERS = 48  # octets of IPv6 and UDP header
BATCH = 64  # packets of one sendmmsg
DELAY_RATE = 5_000  # packets per second: far from any limit, so that the path is measured and not its queues
_SO_TIMESTAMPNS = 35
_SCHED_SLACK = 0.0002  # seconds: shorter waits than this are not worth a sleep


def send(destination: str, size: int, rate: float, seconds: float) -> tuple[int, float, float]:
    """Send IPv6 packets of `size` octets at `rate` packets per second (0: as fast as it goes); how many, in what time
    and in what processor time, which has all that the kernel does with them on their way through veth devices.

    No two are equal: each has the number of its batch and its own in it.
    """
    length = size - HEADERS
    contents = bytearray(b"".join(bytes(4) + bytes((number,)) * (length - 4) for number in range(BATCH)))
    view = memoryview(contents)
    messages, _alive = outgoing([view[at : at + length] for at in range(0, len(contents), length)])
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.connect((destination, PORT))
        descriptor = sock.fileno()
        sent, batch, start, before = 0, 0, time.perf_counter(), time.process_time()
        while (elapsed := time.perf_counter() - start) < seconds:
            batch += 1
            for at in range(4):
                contents[at::length] = bytes((batch >> 8 * at & 0xFF,)) * BATCH
            if rate and (ahead := (sent + BATCH) / rate - elapsed) > _SCHED_SLACK:
                time.sleep(ahead)
            sent += send_many(descriptor, messages)
        return sent, time.perf_counter() - start, time.process_time() - before


def send_stamped(destination: str, size: int, seconds: float) -> int:
    """Send packets that carry the time at which they were sent; how many."""
    padding = bytes(size - HEADERS - 8)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.connect((destination, DELAY_PORT))
        count = int(seconds * DELAY_RATE)
        start = time.perf_counter()
        for number in range(count):
            while time.perf_counter() - start < number / DELAY_RATE:
                pass  # a sleep would leave the processor cold, and the first packet after it would pay
            sock.send(struct.pack("!Q", time.clock_gettime_ns(time.CLOCK_REALTIME)) + padding)
    return count


def receive_stamped(address: str, count: int) -> list[float]:
    """One-way delays in microseconds of stamped packets, until `count` came or none comes for half a second."""
    delays: list[float] = []
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.bind((address, DELAY_PORT))
        print("ready", flush=True)
        sock.settimeout(10.0)
        while len(delays) < count:
            try:
                data, control, _, _ = sock.recvmsg(2048, 64)
            except TimeoutError:
                break
            sock.settimeout(0.5)
            seconds, nanoseconds = struct.unpack_from("=qq", control[0][2])
            delays.append((seconds * 1_000_000_000 + nanoseconds - int.from_bytes(data[:8], "big")) / 1e3)
    return delays


def sink(address: str) -> None:
    """Hold the port until SIGTERM, so that nothing is answered; what overflows has arrived all the same."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind((address, PORT))
        print("ready", flush=True)
        signal.pause()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["send", destination, size, rate, seconds]:
            print(json.dumps(send(destination, int(size), float(rate), float(seconds))))
        case ["send-stamped", destination, size, seconds]:
            print(send_stamped(destination, int(size), float(seconds)))
        case ["receive-stamped", address, count]:
            print(json.dumps(receive_stamped(address, int(count))))
        case ["sink", address]:
            sink(address)
        case other:
            sys.exit(f"bench_traffic: no such call: {other}")
