"""Measures the wall-clock time of `oo` commands. Called by ./run."""

import http.server
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

OO, DAEMON, TIMES = sys.argv[1], sys.argv[2], 200
# Name, arguments, and the limit of the median in milliseconds.
COMMANDS = [
    ("startup only", ["version"], 10),
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


def start_daemon(data_dir):
    env = {"HOME": data_dir, "OPENORCH_LISTEN": "127.0.0.1:0", "OPENORCH_DATA_DIR": data_dir, "OPENORCH_UI_LISTEN": "", "OPENORCH_LOG": "error"}
    daemon = subprocess.Popen([DAEMON], env=env, stdout=subprocess.PIPE, text=True)
    line = next(line for line in daemon.stdout if "listens on" in line)
    threading.Thread(target=daemon.stdout.read, daemon=True).start()
    return daemon, line.split()[-1]


def measure(arguments, env):
    """Median, 95th percentile and minimum of the wall-clock time in milliseconds."""
    times_ms = []
    for _ in range(TIMES):
        started = time.perf_counter()
        subprocess.run([OO, *arguments], env=env, stdout=subprocess.DEVNULL, check=True)
        times_ms.append((time.perf_counter() - started) * 1000)
    times_ms.sort()
    return statistics.median(times_ms), times_ms[int(TIMES * 0.95)], times_ms[0]


def main():
    with tempfile.TemporaryDirectory() as directory:
        service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
        threading.Thread(target=service.serve_forever, daemon=True).start()
        daemon, url = start_daemon(directory)
        try:
            env = {"HOME": os.path.join(directory, "home"), "PATH": os.environ["PATH"]}
            os.mkdir(env["HOME"])
            subprocess.run([OO, "env", "add", "local", url], env=env, check=True)
            subprocess.run([OO, "login", "openorch"], input=b"changeme\n", env=env, check=True)
            register = [OO, "put", "/registry-svc/instance", f"--url=http://127.0.0.1:{service.server_port}"]
            subprocess.run(register, env=env, check=True, stdout=subprocess.DEVNULL)
            missed = 0
            print(f"{'':32}{'median':>9}{'p95':>9}{'min':>9}{'limit':>9}   ms, {TIMES} runs")
            for name, arguments, limit in COMMANDS:
                median, p95, minimum = measure(arguments, env)
                missed += median >= limit
                print(f"{name:32}{median:9.1f}{p95:9.1f}{minimum:9.1f}{limit:9}   {'MISSED' if median >= limit else ''}")
        finally:
            daemon.terminate()
            daemon.wait()
    sys.exit(missed > 0)


main()
