"""Measures what a guarded operation costs beside a public one, with many accounts, roles and grants, and how much a
storm of sign-ins delays others. Called by ./run."""

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
    """One connection that is kept."""

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


def start(folder):
    env = {"OPENORCH_LISTEN": f"127.0.0.1:{PORT}", "OPENORCH_DATA_DIR": folder, "OPENORCH_LOG": "error"}
    process = subprocess.Popen([BINARY], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdout.readline()
    return process


def side_by_side(count, work):
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

    side_by_side(16, users)
    for number in range(CLIENTS):
        user = {"name": "Signs in", "slug": f"person-{number}"}
        admin.call("POST", "/user-svc/user", {"user": user, "password": "a password"})


def cpu(process):
    """Seconds of processor time that it has used."""
    with open(f"/proc/{process.pid}/stat") as stat:
        fields = stat.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def load(path, token="", connections=16, seconds=4):
    """Requests and the 99th percentile of their milliseconds."""
    header = ["-H", f"Authorization: Bearer {token}"] if token else []
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *header, f"http://127.0.0.1:{PORT}{path}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text:
        raise SystemExit(text)
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
    milliseconds = float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]
    return int(re.search(r"(\d+) requests in", text).group(1)), milliseconds


def cost(process, path, token=""):
    """Microseconds of processor time of the daemon for a request."""
    before = cpu(process)
    requests, _ = load(path, token)
    return (cpu(process) - before) / requests * 1e6


def storm(stop, counts):
    def client(number):
        body = {"slug": f"person-{number}", "password": "a password"}
        connection = Client()
        while not stop.is_set():
            connection.call("POST", "/user-svc/login", body)
            counts[number] += 1

    side_by_side(CLIENTS, client)


def main():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        process = start(folder)
        try:
            measure(process)
        finally:
            process.terminate()
            process.wait()


def measure(process):
    token = sign_in("openorch", "changeme", "bench")
    began = time.perf_counter()
    fill(token)
    print(f"{USERS} accounts, {ROLES} roles and {GRANTS} grants were made in {time.perf_counter() - began:.0f} s")

    public, guarded = [], []
    for _ in range(3):
        public.append(cost(process, "/user-svc/public-key"))
        guarded.append(cost(process, "/user-svc/delegations", token))
    public, guarded = statistics.median(public), statistics.median(guarded)
    print(f"public {public:.1f} us, guarded {guarded:.1f} us of processor time: ratio {guarded / public:.2f} (1.25 at most)")

    alone = time.perf_counter()
    for _ in range(20):
        sign_in("person-0", "a password", "alone")
    rate_alone = 20 / (time.perf_counter() - alone)
    _, quiet = load("/user-svc/delegations", token, connections=4, seconds=5)
    stop, counts = threading.Event(), [0] * CLIENTS
    storming = threading.Thread(target=storm, args=(stop, counts))
    storming.start()
    began = time.perf_counter()
    _, stormy = load("/user-svc/delegations", token, connections=4, seconds=10)
    rate = sum(counts) / (time.perf_counter() - began)
    stop.set()
    storming.join()
    print(f"99th percentile of others: {quiet:.1f} ms quiet, {stormy:.1f} ms while {CLIENTS} sign in (20 ms more at most)")
    print(f"sign-ins: {rate_alone:.1f}/s one by one, {rate:.1f}/s of {CLIENTS} at once beside that load: ratio {rate / rate_alone:.2f}")


main()
