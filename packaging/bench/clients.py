"""Clients of a Redis and a Memcached server, one connection after the other: what a small application does with its caches."""

import random
import socket
import sys
import time

NAMES = ["session", "cart", "user", "page", "rate", "token", "price", "stock"]


def redis(*words):
    """A command in Redis's protocol (RESP)."""
    parts = [f"*{len(words)}"] + [x for w in words for x in (f"${len(str(w))}", str(w))]
    return ("\r\n".join(parts) + "\r\n").encode()


def redis_session(rng):
    """The requests of a connection to Redis."""
    key = f"{rng.choice(NAMES)}:{rng.randrange(5000)}"
    yield redis("PING")
    for _ in range(rng.randint(1, 5)):
        kind = rng.random()
        if kind < 0.4:
            yield redis("GET", key)
        elif kind < 0.7:
            yield redis("SET", key, rng.randrange(10**6), "EX", rng.choice([30, 60, 300]))
        elif kind < 0.85:
            yield redis("INCR", f"count:{rng.randrange(50)}")
        else:
            yield redis("HGETALL", f"profile:{rng.randrange(900)}")


def memcached_session(rng):
    """The requests of a connection to Memcached."""
    key = f"{rng.choice(NAMES)}_{rng.randrange(5000)}"
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.6:
            yield f"get {key}\r\n".encode()
        else:
            value = "v" * rng.randint(4, 40)
            yield f"set {key} 0 {rng.choice([30, 60, 300])} {len(value)}\r\n{value}\r\n".encode()


def converse(address, requests):
    """Sends each request when the one before was answered."""
    with socket.create_connection(address, timeout=2) as connection:
        for request in requests:
            connection.sendall(request)
            connection.recv(4096)


def main():
    """Talks to the host for so many seconds, some 35 connections a second."""
    host, seconds = sys.argv[1], float(sys.argv[2])
    rng = random.Random(1)
    end = time.monotonic() + seconds
    connections = 0
    while time.monotonic() < end:
        is_redis = rng.random() < 0.6
        requests = redis_session(rng) if is_redis else memcached_session(rng)
        converse((host, 6379 if is_redis else 11211), requests)
        connections += 1
        time.sleep(rng.expovariate(40))
    print(f"{connections} connections")


main()
