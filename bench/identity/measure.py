"""Measures the cost of an operation with a permission check relative to a public one, with many accounts, roles and
grants, and how much many concurrent sign-ins delay other requests. Called by ./run."""

import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time

BINARY, PORT = sys.argv[1], 18191
USERS, ROLES, GRANTS, CLIENTS = 100_000, 1_000, 10_000, 64
TICKS = os.sysconf("SC_CLK_TCK")


class Client:
    """A client with one persistent connection."""

    def __init__(self, token=""):
        self.connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        self.token = token

    def call(self, method, path, body=None):
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        self.connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{method} {path}: {answer.status} {text.decode()}")
        return json.loads(text)


def sign_in(slug, password, device):
    body = {"slug": slug, "password": password, "device": device}
    return Client().call("POST", "/user-svc/login", body)["token"]["token"]


def start(data_dir):
    env = {"OPENORCH_LISTEN": f"127.0.0.1:{PORT}", "OPENORCH_DATA_DIR": data_dir, "OPENORCH_LOG": "error"}
    process = subprocess.Popen([BINARY], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdout.readline()
    return process


def run_concurrently(count, work):
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def fill(token):
    admin = Client(token)
    for number in range(ROLES):
        admin.call("POST", "/user-svc/role", {"id": f"openorch:role-{number}", "name": f"Role {number}"})
    for first in range(0, GRANTS, 1000):
        numbers = range(first, first + 1000)
        grants = [{"permissionId": f"openorch:thing-{n}:view", "slugs": [f"user-{n}"]} for n in numbers]
        admin.call("PUT", "/user-svc/grants", {"grants": grants})

    def users(part):
        client = Client(token)
        for number in range(part, USERS, 16):
            user = {"name": f"User {number}", "slug": f"user-{number}"}
            client.call("POST", "/user-svc/user", {"user": user})

    run_concurrently(16, users)
    for number in range(CLIENTS):
        user = {"name": "Signs in", "slug": f"person-{number}"}
        admin.call("POST", "/user-svc/user", {"user": user, "password": "a password"})


def cpu(process):
    """CPU seconds used by the process."""
    with open(f"/proc/{process.pid}/stat") as stat:
        fields = stat.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def load(path, token="", connections=16, seconds=4):
    """Number of requests and the 99th percentile of their latency in milliseconds."""
    header = ["-H", f"Authorization: Bearer {token}"] if token else []
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *header, f"http://127.0.0.1:{PORT}{path}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text:
        raise SystemExit(text)
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
    milliseconds = float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]
    return int(re.search(r"(\d+) requests in", text).group(1)), milliseconds


def cost(process, path, token=""):
    """CPU time of the daemon per request in microseconds."""
    before = cpu(process)
    requests, _ = load(path, token)
    return (cpu(process) - before) / requests * 1e6


def sign_in_repeatedly(stop, counts):
    def client(number):
        body = {"slug": f"person-{number}", "password": "a password"}
        connection = Client()
        while not stop.is_set():
            connection.call("POST", "/user-svc/login", body)
            counts[number] += 1

    run_concurrently(CLIENTS, client)


def main():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as data_dir:
        process = start(data_dir)
        try:
            measure(process)
        finally:
            process.terminate()
            process.wait()


def measure(process):
    token = sign_in("openorch", "changeme", "bench")
    started = time.perf_counter()
    fill(token)
    print(f"{USERS} accounts, {ROLES} roles and {GRANTS} grants created in {time.perf_counter() - started:.0f} s")

    public, protected = [], []
    for _ in range(3):
        public.append(cost(process, "/user-svc/public-key"))
        protected.append(cost(process, "/user-svc/delegations", token))
    public, protected = statistics.median(public), statistics.median(protected)
    print(f"public {public:.1f} us, protected {protected:.1f} us of CPU time: ratio {protected / public:.2f} (limit 1.25)")

    start_time = time.perf_counter()
    for _ in range(20):
        sign_in("person-0", "a password", "alone")
    sequential_rate = 20 / (time.perf_counter() - start_time)
    _, idle_p99 = load("/user-svc/delegations", token, connections=4, seconds=5)
    stop, counts = threading.Event(), [0] * CLIENTS
    sign_in_thread = threading.Thread(target=sign_in_repeatedly, args=(stop, counts))
    sign_in_thread.start()
    started = time.perf_counter()
    _, loaded_p99 = load("/user-svc/delegations", token, connections=4, seconds=10)
    rate = sum(counts) / (time.perf_counter() - started)
    stop.set()
    sign_in_thread.join()
    print(f"99th percentile of other requests: {idle_p99:.1f} ms without sign-ins, {loaded_p99:.1f} ms with {CLIENTS} clients signing in (limit: 20 ms more)")
    print(f"sign-ins: {sequential_rate:.1f}/s sequential, {rate:.1f}/s with {CLIENTS} clients and other requests: ratio {rate / sequential_rate:.2f}")


main()
