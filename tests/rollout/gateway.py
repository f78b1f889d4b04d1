"""Gateways as processes, the versions of a plugin that they roll out, and requests under way."""

import hashlib
import http.client
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from registry import free_port

REPO = Path(__file__).resolve().parents[2]
GAPURA = REPO / "target/release/gapura"
PERSONA = REPO / "plugins/target/components/persona.wasm"
TOKEN = "rollout"
SECRET = "open sesame"

CONFIG = """
[admin]
token_sha256 = "sha256:{token}"
max_plugin_bytes = {max_bytes}
{plugins}[log]
level = "info"
[model]
source = "sim"
[plugins.guard]
# It is tested elsewhere; here a busy machine may look like a slow version.
enabled = false
[plugins.sources]
{sources}
{registries}
[[routes]]
name = "chat"
plugins = [{{ plugin = "persona", settings = {{ system = "Be brief." }} }}, {{ plugin = "template" }}]
"""


def version(mark):
    """A component that does what persona does, and is another."""
    mark = mark.encode()
    return PERSONA.read_bytes() + bytes([0, 1 + len(mark), len(mark)]) + mark


def digest(component):
    return hashlib.sha256(component).hexdigest()


def write_config(path, sources, registries="", plugins="", max_bytes=33554432):
    """`sources`: the TOML value of `persona`. Replaced whole, as careful operators do it."""
    token = hashlib.sha256(TOKEN.encode()).hexdigest()
    text = CONFIG.format(token=token, sources=f"persona = {sources}", registries=registries, plugins=plugins, max_bytes=max_bytes)
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def quoted(reference):
    return f'"{reference}"'


def tried(live, canary, percent):
    """The TOML value of a plugin with a canary."""
    return f'{{ oci = "{live}", canary = {{ oci = "{canary}", percent = {percent} }} }}'


def gapura(*args, **variables):
    """Runs the command line: exit code, standard output, standard error."""
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", ""), **variables}
    done = subprocess.run([GAPURA, *args], capture_output=True, text=True, timeout=120, env=environment)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def eventually(what, check, seconds=30):
    """Waits until `check` returns something true, and returns it."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            last = check()
            if last:
                return last
        except OSError as error:
            last = error
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds} s; last: {last}")


class Gateway:
    """One gateway of those that follow a configuration file. Its versions are its own."""

    def __init__(self, folder, name, config, **variables):
        self.folder, self.config, self.port = Path(folder) / name, config, free_port()
        self.variables = {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", ""), **variables}
        (self.folder / "plugins").mkdir(parents=True)
        self.process = None

    def start(self, is_ready=True):
        command = [GAPURA, "serve", "--config", self.config, "--listen", f"127.0.0.1:{self.port}",
                   "--plugin-dir", self.folder / "plugins", "--cache-dir", self.folder.parent / "compiled"]
        log = open(self.folder / "log", "a")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.variables)
        if is_ready:
            eventually("the gateway is ready", lambda: self.is_alive() and self.ask("/readyz")[0] == 200)
        return self

    def is_alive(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the gateway ended with {self.process.returncode}: {self.log()[-1500:]}")
        return True

    def kill(self):
        self.process.kill()
        self.process.wait()

    def has_committed(self, component):
        """Whether its folder says that `component` has been live."""
        history = (self.folder / "plugins/.releases/history.jsonl").read_text().splitlines()
        changes = [json.loads(line) for line in history]
        return any(change["digest"] == digest(component) and change["outcome"] == "live" for change in changes)

    def committed(self, component):
        """How far its folder says that `component` has come: None, staged, verified or live."""
        try:
            state = json.loads((self.folder / "plugins/.releases/state.json").read_text())
        except OSError:
            return None
        release = state["plugins"].get("persona", {"versions": [], "lives": []})
        if release["lives"][-1:] == [digest(component)]:
            return "live"
        for version in release["versions"]:
            if version["digest"] == digest(component):
                return "staged" if version["check"] == "pending" else "verified"
        return None

    def hang_up(self):
        self.process.send_signal(signal.SIGHUP)

    def log(self):
        return (self.folder / "log").read_text()

    def ask(self, path, method="GET", body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def json(self, path, method="GET", body=None):
        status, text, _ = self.ask(path, method, body)
        assert status in (200, 201), (status, text[:300])
        return json.loads(text)

    def chat(self):
        """Status, and the chain that answered."""
        body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "Halo"}], "max_tokens": 4})
        status, _, headers = self.ask("/v1/chat/completions", "POST", body)
        return status, headers.get("x-gapura-chain", "")

    def serves(self, component):
        """Whether requests are answered with `component`."""
        status, chain = self.chat()
        assert status == 200, status
        return f"+{digest(component)[:6]}" in chain.split(",")[0]

    def sources(self):
        """The status of the one plugin by reference: of its live version, and of its canary."""
        return self.json("/admin/v1/plugins")["sources"]

    def source(self):
        return self.sources()[0]

    def standing(self):
        """What is live, and what is tried at how many of a hundred requests."""
        plugins = self.json("/admin/v1/plugins")["plugins"]
        persona = next((plugin for plugin in plugins if plugin["name"] == "persona"), None)
        versions = persona["versions"] if persona else []
        live = [version["digest"] for version in versions if version["state"] == "live"]
        tried = [(version["digest"], version["percent"]) for version in versions if version["state"] == "canary"]
        return live, tried

    def outcomes(self):
        """The history of the plugin, the oldest first: digest, outcome."""
        history = self.json("/admin/v1/history")["history"]
        return [(change["digest"], change["outcome"]) for change in reversed(history) if change["subject"] == "plugin persona"]


class Load:
    """Clients that ask a gateway again and again. Every request has to be answered."""

    def __init__(self, gateway, clients=2):
        self.gateway, self.answered, self.failures, self.end = gateway, 0, [], threading.Event()
        self.threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def _run(self):
        while not self.end.is_set():
            try:
                status, _ = self.gateway.chat()
                self.answered += 1
                if status != 200:
                    self.failures.append(f"status {status}")
            except OSError as error:
                self.failures.append(repr(error))
            time.sleep(0.02)

    def stop(self):
        self.end.set()
        for thread in self.threads:
            thread.join()
        assert not self.failures, f"{len(self.failures)} of {self.answered} requests failed: {self.failures[:3]}"
        assert self.answered > 20, f"only {self.answered} requests were answered"
        return self.answered
