"""Measures the daemon's startup time, memory and time to the first successful request. Called by ./run."""

import http.server
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

BINARY, PORT, COUNT = sys.argv[1], 18190, 20_000
URL = f"http://127.0.0.1:{PORT}"


def call(method, path, token="", body=None):
    request = urllib.request.Request(URL + path, method=method, data=json.dumps(body).encode() if body else None)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def start(data_dir, **variables):
    """Starts the daemon; returns the process and the milliseconds until /ready returned 200."""
    env = {"OPENORCH_LISTEN": f"127.0.0.1:{PORT}", "OPENORCH_DATA_DIR": data_dir, "OPENORCH_LOG": "error", **variables}
    started = time.perf_counter()
    process = subprocess.Popen([BINARY], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        try:
            with socket.create_connection(("127.0.0.1", PORT), timeout=1) as stream:
                stream.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                if stream.recv(64).startswith(b"HTTP/1.1 200"):
                    return process, (time.perf_counter() - started) * 1000
        except OSError:
            time.sleep(0.001)


def stop(process):
    process.terminate()
    process.wait()


def memory(process):
    with open(f"/proc/{process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def median_start(data_dir, times=7):
    measured = []
    for _ in range(times):
        process, milliseconds = start(data_dir)
        measured.append(milliseconds)
        stop(process)
    return statistics.median(measured)


def fill(data_dir):
    """Creates 20,000 accounts and instances with their dependent rows. The rows are copied in SQL, since registering them
    would take minutes of password hashing."""
    import sqlite3

    database = next(os.path.join(data_dir, "server", name) for name in os.listdir(f"{data_dir}/server") if name.endswith(".db"))
    with sqlite3.connect(database) as connection:
        owner = connection.execute("SELECT id FROM c_userSvcUsers WHERE json_extract(doc,'$.slug')='bench-svc'").fetchone()[0]
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type='table' AND name LIKE 'c_%'")]
        for table in tables:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] != "rid"]
            names = ",".join(f'"{name}"' for name in columns)
            templates = connection.execute(
                f"SELECT {names} FROM {table} WHERE id=:owner OR doc LIKE '%'||:owner||'%'", {"owner": owner}
            ).fetchall()
            copies = [copy(template, owner, number) for template in templates for number in range(COUNT)]
            connection.executemany(f"INSERT INTO {table}({names}) VALUES({','.join('?' * len(columns))})", copies)


def copy(row, owner, number):
    """A copy of the row for another account, with its own ids, slug and URL in documents and index keys."""
    changes = [(owner, f"{owner}x{number}"), ("bench-svc", f"bench-svc-{number}"), ("127.0.0.1:9", f"127.0.0.1:9/{number}")]
    values = []
    for value in row:
        for old, new in changes:
            if isinstance(value, str):
                value = value.replace(old, new)
            elif isinstance(value, bytes):
                value = value.replace(old.encode(), new.encode())
        values.append(value)
    if owner not in str(row[0]):
        values[0] = f"{row[0]}x{number}"
        values = [v.replace(f'"id":"{row[0]}"', f'"id":"{row[0]}x{number}"') if isinstance(v, str) and v != values[0] else v for v in values]
    return values


def first_request(token):
    """Milliseconds from the service's listen() to the first 200, for a service registered one second earlier."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    call("PUT", "/registry-svc/instance", token, {"url": f"http://127.0.0.1:{port}"})
    time.sleep(1)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Hello)
    started = time.perf_counter()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        try:
            urllib.request.urlopen(f"{URL}/bench-svc/hello").read()
            break
        except OSError:
            time.sleep(0.002)
    elapsed = (time.perf_counter() - started) * 1000
    server.shutdown()
    server.server_close()
    call("DELETE", "/registry-svc/instance/" + call("GET", "/registry-svc/instances", token)["instances"][0]["id"], token)
    return elapsed


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


first_starts = []
for _ in range(5):
    with tempfile.TemporaryDirectory() as data_dir:
        process, milliseconds = start(data_dir)
        first_starts.append(milliseconds)
        stop(process)
print(f"first start, empty data directory: {statistics.median(first_starts):.0f} ms (limit < 1000)")
with tempfile.TemporaryDirectory() as data_dir:
    process, _ = start(data_dir)
    idle_wait = int(os.environ.get("IDLE_SECONDS", "30"))
    time.sleep(idle_wait)
    print(f"idle memory after {idle_wait} s, empty data directory: {memory(process):.1f} MiB (limit <= 25)")
    token = call("POST", "/user-svc/register", body={"slug": "bench-svc", "password": "p"})["token"]["token"]
    times = [first_request(token) for _ in range(5)]
    print(f"first successful request after listen(): median {statistics.median(times):.0f} ms, maximum {max(times):.0f} (limit < 300)")
    call("PUT", "/registry-svc/instance", token, {"url": "http://127.0.0.1:9"})
    stop(process)
    print(f"later start: {median_start(data_dir):.0f} ms (limit < 100)")
    fill(data_dir)
    print(f"later start with {COUNT} accounts and instances: {median_start(data_dir):.0f} ms (limit < 150)")
