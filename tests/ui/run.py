#!/usr/bin/env python3
"""The operator's page in a real browser: headless Chromium, driven over the DevTools protocol.

    python3 tests/ui/run.py [--screenshots DIR] [CHECK]...

Starts the gateway with the simulated model and walks through the page as an operator does: checks.py says
what is looked at. CHECK is a part of a check's name. Needs the built gateway and the components.

Chromium is the one that CHROMIUM names, else one of the PATH, else Debian's chromium-headless-shell, which
root has installed by this script (90 MB, half a minute). Playwright, which drives it, comes from PyPI into a
virtual environment of its own. Where one of them cannot be had the page is not tested, which is said loudly.

Exit code 1 where a check fails.
"""

import argparse
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

PLAYWRIGHT = "playwright==1.65.2"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gapura"
BROWSERS = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome-stable", "google-chrome"]
INSTALL = ["apt-get", "install", "--yes", "--no-install-recommends", "chromium-headless-shell"]


class Missing(Exception):
    """What cannot be had on this machine."""


def browser() -> str:
    """The path of a Chromium."""
    named = os.environ.get("CHROMIUM")
    if named:
        return named
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found:
        return found
    if not shutil.which("apt-get"):
        raise Missing("there is no Chromium: install one, or name one with CHROMIUM")
    if os.geteuid() != 0:
        raise Missing(f"there is no Chromium: sudo {' '.join(INSTALL)}")
    print("==> Installing chromium-headless-shell", flush=True)
    for command in ["apt-get", "-qq", "update"], INSTALL:
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
            raise Missing(f"could not install Chromium: {' '.join(command)} failed")
    return shutil.which("chromium-headless-shell")


def interpreter() -> Path:
    """A Python that has Playwright."""
    venv = CACHE / "ui-venv"
    python = venv / "bin/python"
    wanted = venv / PLAYWRIGHT
    if not wanted.exists():
        print(f"==> Installing {PLAYWRIGHT} into {venv}", flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        commands = (
            [sys.executable, "-m", "venv", venv],
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PLAYWRIGHT],
        )
        for command in commands:
            if subprocess.run(command).returncode != 0:
                raise Missing(f"could not install {PLAYWRIGHT}")
        wanted.touch()
    return python


def run(wanted: list[str], screenshots: Path | None) -> int:
    """Runs the checks whose names hold one of `wanted`, in the Python that has Playwright."""
    from checks import CHECKS, Page
    from playwright.sync_api import sync_playwright
    from server import Server

    failures = []
    checks = [check for check in CHECKS if not wanted or any(part in check.__name__ for part in wanted)]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"])
        print(f"Chromium {chromium.version}, {PLAYWRIGHT}", flush=True)
        for check in checks:
            with Server() as server:
                page = Page(chromium, server)
                try:
                    check(page)
                    page.is_clean()
                    print(f"ok      {check.__name__}", flush=True)
                except Exception:
                    failures.append(check.__name__)
                    print(f"FAILED  {check.__name__}\n{traceback.format_exc()}\n{server.log()}", flush=True)
                if screenshots:
                    page.picture(screenshots / f"{check.__name__}.png")
                page.close()
        chromium.close()
    print(f"{len(checks) - len(failures)} passed, {len(failures)} failed")
    return 1 if failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK")
    parser.add_argument("--screenshots", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    if os.environ.get("GAPURA_UI_VENV"):
        return run(arguments.checks, arguments.screenshots)
    try:
        environment = {**os.environ, "GAPURA_UI_VENV": "1", "CHROMIUM": browser()}
        python = interpreter()
    except Missing as missing:
        print(f"\n!!! THE OPERATOR'S PAGE WAS NOT TESTED: {missing}\n", file=sys.stderr)
        return 0
    return subprocess.run([python, *sys.argv], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
