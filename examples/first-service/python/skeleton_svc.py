"""A first service on OpenOrch, in Python with the standard library only: an account, an instance, one page."""

import json
import os
import secrets
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

OPENORCH_URL = os.environ.get("OPENORCH_URL") or sys.exit(
    "OPENORCH_URL is not set; set it to the daemon's URL, for example http://127.0.0.1:58231"
)
SELF_URL = os.environ.get("SELF_URL", "http://127.0.0.1:9311")
DATA = Path(os.environ.get("SKELETON_DATA") or Path.home() / ".openorch" / "skeleton-svc")


def main():
    token = sign_in(credential())
    call("PUT", "/registry-svc/instance", {"url": SELF_URL}, token)
    address = urlsplit(SELF_URL)
    server = ThreadingHTTPServer((address.hostname, address.port or 80), Hello)
    print("listening on", address.netloc, flush=True)
    server.serve_forever()


def credential():
    """The password is generated once, and stored before it is sent to the server."""
    DATA.mkdir(mode=0o700, parents=True, exist_ok=True)
    path, whole = DATA / "credential.json", DATA / f"credential.json.{os.getpid()}"
    fresh = {"slug": "skeleton-svc", "password": "cred_" + secrets.token_urlsafe(24), "name": "Skeleton Svc"}
    with os.fdopen(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(fresh, file)
    try:
        os.link(whole, path)  # Never overwrites an existing one: if two copies start at the same time, one wins.
    except FileExistsError:
        pass
    finally:
        whole.unlink()
    return json.loads(path.read_text())


def sign_in(own):
    try:
        answer = call("POST", "/user-svc/login", own)
    except urllib.error.HTTPError as refusal:
        text = refusal.read().decode()
        if "Slug not found" not in text:
            sys.exit(f"cannot sign in: {text}")
        answer = call("POST", "/user-svc/register", own)
    return answer["token"]["token"]


def call(method, path, body, token=None):
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(OPENORCH_URL + path, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request) as response:
        return json.load(response)


class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        known = self.path == "/skeleton-svc/hello"
        body = b'{"hello": "world"}' if known else b'{"error": "not found; this service has only /skeleton-svc/hello"}'
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    main()
