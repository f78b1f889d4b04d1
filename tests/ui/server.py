"""A gateway to look at, and what happens to it behind the page's back."""

import hashlib
import http.server
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
GAPURA = Path(os.environ.get("GAPURA", REPO / "target/release/gapura"))
COMPONENTS = REPO / "plugins/target/components"
TOKEN = "token-of-the-page"
# Runs where markup of a name, a reason or an answer becomes an element.
HOSTILE = "<img src=x onerror=window.pwned=1>"

# `voice` is a persona; a request-guard under its name cannot read its settings and fails every request.
CONFIG = """
[server]
listen = "127.0.0.1:{port}"
[admin]
token_sha256 = "sha256:{token}"
[log]
level = "warn"
[model]
source = "sim"
[plugins]
dir = "{plugins}"
releases_dir = "{plugins}/.releases"
watch = false
[plugins.guard]
min_requests = 10
# Each answer of the tests is a first one, whose instances are made under load.
max_latency_ratio = 1000.0
[[routes]]
name = "sari"
aliases = ["asisten"]
plugins = [
  {{ plugin = "voice", grants = ["log", "config", "tokenizer"], settings = {{ system = "Kamu adalah Sari." }} }},
  {{ plugin = "pii-redact", settings = {{ kinds = ["email"] }} }},
  {{ plugin = "chatml" }},
]
[[routes]]
name = "broken"
plugins = [
  {{ plugin = "request-guard", grants = ["log", "tokenizer"], settings = {{ deny = "unreadable" }}, breaker = {{ failures = 2, backoff_ms = 60000 }} }},
  {{ plugin = "chatml" }},
]
[[routes]]
name = "strict"
plugins = [
  {{ plugin = "request-guard", grants = ["log", "config", "tokenizer"], settings = {{ deny = [{{ pattern = "rekening", code = "off_topic", message = "No. {hostile}" }}] }} }},
  {{ plugin = "chatml" }},
]
"""


def component(name: str) -> bytes:
    return (COMPONENTS / f"{name}.wasm").read_bytes()


def with_section(wasm: bytes, name: str, data: bytes) -> bytes:
    """The component with another custom section: another version."""
    content = leb128(len(name)) + name.encode() + data
    return wasm + b"\0" + leb128(len(content)) + content


def leb128(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digits(wasm: bytes) -> str:
    """As labels show them."""
    return sha256(wasm)[:6]


def gapura(*arguments) -> str:
    """What a command prints."""
    done = subprocess.run([GAPURA, *arguments], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


class Registry:
    """An OCI registry that has one component and gives it out by digest; leaving it ends it."""

    def __init__(self, wasm: bytes):
        layer = {"mediaType": "application/wasm", "digest": f"sha256:{sha256(wasm)}", "size": len(wasm)}
        config = b"{}"
        manifest = json.dumps({
            "schemaVersion": 2,
            "config": {
                "mediaType": "application/vnd.wasm.config.v0+json",
                "digest": f"sha256:{sha256(config)}",
                "size": len(config),
            },
            "layers": [layer],
        }).encode()
        kind = "application/vnd.oci.image.manifest.v1+json"
        self.files = {f"/v2/team/plugin/manifests/sha256:{sha256(manifest)}": (kind, manifest)}
        self.files[f"/v2/team/plugin/blobs/sha256:{sha256(wasm)}"] = ("application/octet-stream", wasm)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.reference = f"oci://127.0.0.1:{self.port}/team/plugin@sha256:{sha256(manifest)}"

    def __enter__(self) -> "Registry":
        files = self.files

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                kind, body = files.get(self.path, ("text/plain", b""))
                self.send_response(200 if body else 404)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.listener = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown()
        self.listener.server_close()


class Server:
    """A running gateway with the simulated model; leaving it ends it."""

    def __enter__(self) -> "Server":
        self.folder = tempfile.TemporaryDirectory()
        folder = Path(self.folder.name)
        plugins = folder / "plugins"
        plugins.mkdir()
        for name, of in ("voice", "persona"), ("pii-redact",) * 2, ("request-guard",) * 2:
            (plugins / f"{name}.wasm").write_bytes(component(of))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        token = hashlib.sha256(TOKEN.encode()).hexdigest()
        (folder / "gapura.toml").write_text(
            CONFIG.format(port=port, token=token, plugins=plugins, hostile=HOSTILE)
        )
        self.url = f"http://127.0.0.1:{port}"
        self.logged = open(folder / "log", "w+")
        self.start()
        return self

    def start(self):
        command = [GAPURA, "serve", "--config", Path(self.folder.name) / "gapura.toml"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.logged)
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/readyz").close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the gateway does not start:\n{self.log()}") from None
                time.sleep(0.05)

    def stop(self) -> float:
        """Ends it as an operator does; the seconds that it took."""
        began = time.monotonic()
        self.process.terminate()
        self.process.wait(timeout=60)
        return time.monotonic() - began

    def kill(self):
        """Ends it as a machine that fails does: no stream has an end."""
        self.process.kill()
        self.process.wait()

    def configure(self, more: str):
        """Starts it again with these lines behind the others of its configuration."""
        self.kill()
        file = Path(self.folder.name) / "gapura.toml"
        file.write_text(f"{file.read_text()}\n{more}")
        self.start()

    def __exit__(self, *_):
        self.kill()
        self.logged.close()
        self.folder.cleanup()

    def log(self) -> str:
        return (Path(self.folder.name) / "log").read_text()[-4000:]

    def admin(self, method: str, path: str, body: bytes | dict | None = None) -> tuple[int, dict]:
        """What another operator does meanwhile."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {"authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"{self.url}/admin/v1/{path}", data, headers, method=method)
        return answer(request)

    def push(self, name: str, wasm: bytes, until: str = "verified") -> tuple[int, dict]:
        return self.admin("PUT", f"plugins/{urllib.parse.quote(name, safe='')}?until={until}", wasm)

    def chat(self, user: str, route: str = "sari") -> int:
        """One request of a client; its status."""
        body = {"model": route, "user": user, "max_tokens": 4, "messages": [{"role": "user", "content": "Halo"}]}
        headers = {"content-type": "application/json"}
        url = f"{self.url}/v1/chat/completions"
        return answer(urllib.request.Request(url, json.dumps(body).encode(), headers))[0]

    def traffic(self, users: int):
        """So many clients, one after the other."""
        for number in range(users):
            self.chat(f"user-{number}")

    def later(self, work, *arguments) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        thread.start()
        return thread


def answer(request: urllib.request.Request) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
