"""Many clients that read slowly, in a process of their own: slow_clients.py PORT PATH COUNT BYTES_PER_SECOND

Runs until its input ends; then prints the bytes that each client got, as JSON.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import sys
import time


def main(port: int, path: str, count: int, rate: int) -> None:
    taken = [0] * count
    clients = []
    for _ in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        client.settimeout(10)
        client.connect(("127.0.0.1", port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n".encode())
        client.setblocking(False)
        clients.append(client)
    began = time.monotonic()
    # not all in step
    phase = [random.random() * 0.2 for _ in clients]
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        while not selector.select(0.01):
            elapsed = time.monotonic() - began
            for number, client in enumerate(clients):
                if taken[number] <= (elapsed - phase[number]) * rate:
                    try:
                        taken[number] += len(client.recv(8192))
                    except BlockingIOError:
                        pass
    print(json.dumps(taken))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
