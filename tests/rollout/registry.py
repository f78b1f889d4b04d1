"""A real registry, and what can go wrong between it and a gateway.

The registry is Debian's `docker-registry`: that of the system, or unpacked from its package into the
user's cache, without root.
"""

import hashlib
import http.client
import http.server
import json
import os
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gapura/tools/docker-registry"
# `open sesame` of the user `gateway`, by bcrypt.
HTPASSWD = "gateway:$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"


def program():
    """The registry's path; None where it cannot be had, with the reason."""
    found = shutil.which("docker-registry") or shutil.which("registry")
    if found:
        return found, None
    unpacked = CACHE / "usr/bin/docker-registry"
    if not unpacked.exists():
        if not (shutil.which("apt-get") and shutil.which("dpkg")):
            return None, "no docker-registry on PATH, and no apt-get to fetch it"
        CACHE.mkdir(parents=True, exist_ok=True)
        # A machine that has never asked has no list of packages yet.
        for command in ("true", "apt-get -qq update"):
            subprocess.run(command.split(), capture_output=True)
            fetched = subprocess.run(["apt-get", "-qq", "download", "docker-registry"], cwd=CACHE, capture_output=True, text=True)
            packages = list(CACHE.glob("docker-registry_*.deb"))
            if packages:
                break
        else:
            return None, f"apt-get download docker-registry: {fetched.stderr.strip()[-300:] or 'nothing came'}"
        subprocess.run(["dpkg", "-x", packages[0], CACHE], check=True)
        packages[0].unlink()
    return str(unpacked), None


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Registry:
    """A running registry over a folder."""

    def __init__(self, folder, login=False):
        self.folder, self.port, self.process = Path(folder) / "registry", free_port(), None
        self.folder.mkdir()
        self.host = f"127.0.0.1:{self.port}"
        config = f"version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {self.folder}/data }} }}\nhttp: {{ addr: '{self.host}' }}\n"
        if login:
            (self.folder / "htpasswd").write_text(HTPASSWD)
            config += f"auth: {{ htpasswd: {{ realm: test, path: {self.folder}/htpasswd }} }}\n"
        (self.folder / "config.yml").write_text(config)
        self.start()

    def start(self):
        log = open(self.folder / "log", "a")
        self.process = subprocess.Popen([program()[0], "serve", self.folder / "config.yml"], stdout=log, stderr=log)
        for _ in range(300):
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the registry did not start within 15 s")

    def stop(self):
        self.process.kill()
        self.process.wait()

    def put(self, component, repository="persona", size=None):
        """Lays down any bytes as a component; returns the reference by digest."""
        config = b"{}"
        digests = [self._blob(repository, blob) for blob in (component, config)]
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": digests[1], "size": len(config)},
            "layers": [{"mediaType": "application/wasm", "digest": digests[0], "size": len(component)}]}).encode()
        kind = {"content-type": "application/vnd.oci.image.manifest.v1+json"}
        status, _ = self._ask("PUT", f"/v2/{repository}/manifests/test", manifest, kind)
        assert status == 201, status
        return f"oci://{self.host}/{repository}@sha256:{hashlib.sha256(manifest).hexdigest()}"

    def tamper(self, component):
        """Changes one byte of a component where the registry keeps it."""
        digest = hashlib.sha256(component).hexdigest()
        path = self.folder / f"data/docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    def _blob(self, repository, blob):
        digest = "sha256:" + hashlib.sha256(blob).hexdigest()
        status, headers = self._ask("POST", f"/v2/{repository}/blobs/uploads/")
        assert status == 202, status
        place = headers["location"].removeprefix(f"http://{self.host}")
        status, _ = self._ask("PUT", f"{place}&digest={digest}", blob, {"content-type": "application/octet-stream"})
        assert status == 201, status
        return digest

    def _ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, answer.headers


class Proxy:
    """Stands before a registry. `mode`:

    - `pass`
    - `slow`: a component comes in two parts, one and a half seconds apart
    - `stall`: after the first it never goes on; `stall-manifest`: the same of a manifest
    - `trickle`: it comes byte by byte, one each half second
    - `garbage`: answers what nobody asked for
    """

    def __init__(self, registry):
        self.registry, self.mode, self.asked = registry, "pass", 0
        self.released = threading.Event()
        # Seconds that clients took what trickled.
        self.trickled = []
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                proxy.asked += 1
                mode = proxy.mode
                if mode == "garbage":
                    status, headers, body = 200, {}, b"<html>It works!</html>" * 100
                else:
                    status, headers, body = self.ask()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.send_header("content-type", headers.get("content-type", "text/html"))
                self.end_headers()
                is_component = "/blobs/" in self.path
                if is_component and mode == "trickle":
                    return self.trickle(body)
                half = len(body) // 2
                self.wfile.write(body[:half])
                if is_component and mode == "slow":
                    time.sleep(1.5)
                if mode == ("stall" if is_component else "stall-manifest"):
                    proxy.released.wait(60)
                self.wfile.write(body[half:])

            def ask(self):
                connection = http.client.HTTPConnection("127.0.0.1", proxy.registry.port, timeout=20)
                connection.request("GET", self.path, headers={"accept": self.headers.get("accept", "*/*")})
                answer = connection.getresponse()
                return answer.status, answer.headers, answer.read()

            def trickle(self, body):
                began = time.monotonic()
                try:
                    for byte in body:
                        self.wfile.write(bytes([byte]))
                        if proxy.released.wait(0.5):
                            return
                finally:
                    proxy.trickled.append(time.monotonic() - began)

        class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """Clients that have enough go away."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def through(self, reference):
        """The reference, by way of the proxy."""
        return reference.replace(self.registry.host, self.host)

    def release(self):
        """Lets what stalls go on, and whatever comes after it."""
        self.mode = "pass"
        self.released.set()

    def stop(self):
        self.released.set()
        self.server.shutdown()
