"""Measures what commands of `oo` cost in wall time. Called by ./run."""

import http.server
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

OO, DAEMON, TIMES = sys.argv[1], sys.argv[2], 200
# Program, arguments, and the milliseconds that its median must stay under.
COMMANDS = [
    ("start alone", ["version"], 10),
    ("oo token", ["token"], 10),
    ("oo instance ls", ["instance", "ls"], 20),
    ("oo instance ls -o json", ["instance", "ls", "-o", "json"], 20),
    ("oo node ls", ["node", "ls"], 20),
    ("oo get /registry-svc/instances", ["get", "/registry-svc/instances"], 20),
    ("oo call listInstances", ["call", "listInstances"], 20),
    ("completion of an instance", ["complete", "--", "instance", "rm", ""], 50),
]


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def start_daemon(folder):
    env = {"HOME": folder, "OPENORCH_LISTEN": "127.0.0.1:0", "OPENORCH_DATA_DIR": folder, "OPENORCH_UI_LISTEN": "", "OPENORCH_LOG": "error"}
    daemon = subprocess.Popen([DAEMON], env=env, stdout=subprocess.PIPE, text=True)
    line = next(line for line in daemon.stdout if "listens on" in line)
    threading.Thread(target=daemon.stdout.read, daemon=True).start()
    return daemon, line.split()[-1]


def measure(arguments, env):
    """Median, 95th percentile and least of the wall time in milliseconds."""
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        subprocess.run([OO, *arguments], env=env, stdout=subprocess.DEVNULL, check=True)
        taken.append((time.perf_counter() - began) * 1000)
    taken.sort()
    return statistics.median(taken), taken[int(TIMES * 0.95)], taken[0]


def main():
    with tempfile.TemporaryDirectory() as folder:
        service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
        threading.Thread(target=service.serve_forever, daemon=True).start()
        daemon, url = start_daemon(folder)
        try:
            env = {"HOME": os.path.join(folder, "home"), "PATH": os.environ["PATH"]}
            os.mkdir(env["HOME"])
            subprocess.run([OO, "env", "add", "local", url], env=env, check=True)
            subprocess.run([OO, "login", "openorch"], input=b"changeme\n", env=env, check=True)
            register = [OO, "put", "/registry-svc/instance", f"--url=http://127.0.0.1:{service.server_port}"]
            subprocess.run(register, env=env, check=True, stdout=subprocess.DEVNULL)
            missed = 0
            print(f"{'':32}{'median':>9}{'p95':>9}{'least':>9}{'target':>9}   ms, {TIMES} times")
            for name, arguments, target in COMMANDS:
                median, late, least = measure(arguments, env)
                missed += median >= target
                print(f"{name:32}{median:9.1f}{late:9.1f}{least:9.1f}{target:9}   {'MISSED' if median >= target else ''}")
        finally:
            daemon.terminate()
            daemon.wait()
    sys.exit(missed > 0)


main()
