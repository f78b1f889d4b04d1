#!/usr/bin/env python3
"""Roll-outs over a real registry: gateways that follow what their configuration names.

    python3 tests/rollout/run.py [--only WORD] [--jobs 4]

Needs the built gateway and components (`make build`). Without a registry, and where none can be
fetched, everything is skipped, which is said; with `GAPURA_REQUIRE_ALL=1` in the environment it is a failure.
"""

import argparse
import concurrent.futures
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from gateway import PERSONA, SECRET, Gateway, Load, digest, eventually, gapura, quoted, tried, version, write_config
from registry import Proxy, Registry, program


class Scene:
    """What one scenario has started, all of which ends with it."""

    def __init__(self, folder):
        self.folder, self.config, self.ending = Path(folder), Path(folder) / "gapura.toml", []

    def registry(self, **options):
        return self._kept(Registry(self.folder, **options))

    def proxy(self, registry):
        return self._kept(Proxy(registry))

    def gateway(self, name="a", **variables):
        gateway = Gateway(self.folder, name, self.config, **variables)
        self.ending.append(lambda: gateway.process and gateway.kill())
        return gateway

    def load(self, gateway):
        load = Load(gateway)
        self.ending.append(load.end.set)
        return load

    def desire(self, reference, **options):
        write_config(self.config, quoted(reference), **options)

    def _kept(self, thing):
        self.ending.append(thing.stop)
        return thing


def publish_and_pull(scene):
    """What is published is named by its digest, whoever pulls it holds it against that."""
    registry = scene.registry()
    place = f"oci://{registry.host}/team/persona"
    published = [gapura("plugin", "publish", PERSONA, f"{place}:1.2.0") for _ in range(2)]
    assert published[0][0] == 0, published[0]
    assert published[0] == published[1], "the same component has one digest"
    pinned = published[0][1]
    assert pinned.startswith(f"{place}:1.2.0@sha256:"), pinned
    by_tag, by_digest, file = (gapura("plugin", "inspect", what, "--json") for what in (f"{place}:1.2.0", pinned, PERSONA))
    assert by_tag == by_digest == file and file[0] == 0, (by_tag, file)

    junk = scene.folder / "junk.wasm"
    junk.write_bytes(b"\0asm\x01\0\0\0")
    code, _, said = gapura("plugin", "publish", junk, place)
    assert code == 1 and "not a plugin" in said, said
    code, _, said = gapura("plugin", "inspect", f"{place}@sha256:{'ab' * 32}")
    assert code == 1 and "has no manifest" in said, said
    scene.desire(f"{place}:1.2.0")
    code, _, said = gapura("check", "--config", scene.config)
    assert code == 1 and "names a tag" in said, said
    scene.desire(pinned)
    code, _, said = gapura("check", "--config", scene.config)
    assert code == 1 and "[plugins] releases_dir" in said, said
    scene.desire(pinned, plugins='[plugins]\nreleases_dir = "releases"\n')
    code, out, said = gapura("check", "--config", scene.config)
    assert code == 0 and "persona@" in out, (out, said)

    registry.tamper(PERSONA.read_bytes())
    code, _, said = gapura("plugin", "inspect", pinned)
    assert code == 1 and "the component is not what was asked for" in said, said


def logins(scene):
    """Passwords come from the environment, open what they should, and are never shown."""
    registry = scene.registry(login=True)
    place = f"oci://{registry.host}/persona"
    section = f'[registries."{registry.host}"]\nusername = "gateway"\npassword_env = "PASSWORD"'
    scene.desire(f"{place}@sha256:{'ab' * 32}", registries=section)
    code, _, said = gapura("plugin", "publish", PERSONA, place)
    assert code == 1 and "has no login" in said, said
    code, _, said = gapura("plugin", "publish", PERSONA, place, "--config", scene.config, PASSWORD="something-else")
    assert code == 1 and "its password is another" in said and "something-else" not in said, said
    code, pinned, said = gapura("plugin", "publish", PERSONA, place, "--config", scene.config, PASSWORD=SECRET)
    assert code == 0, said
    scene.desire(pinned, registries=section)
    gateway = scene.gateway(PASSWORD=SECRET, LOG_LEVEL="trace").start()
    assert gateway.serves(PERSONA.read_bytes())
    assert SECRET not in gateway.log() and "b3BlbiBzZXNhbWU" not in gateway.log()


def two_gateways(scene):
    """Both follow one file, under load; one is killed in the middle and catches up."""
    registry = scene.registry()
    proxy = scene.proxy(registry)
    versions = [version(f"two-{number}") for number in range(4)]
    references = [proxy.through(registry.put(component)) for component in versions]
    scene.desire(references[0])
    first, second = (scene.gateway(name).start() for name in "ab")
    loads = [scene.load(gateway) for gateway in (first, second)]
    for number in (1, 2):
        scene.desire(references[number])
        for gateway in (first, second):
            eventually("the new version serves", lambda: gateway.serves(versions[number]))
            assert gateway.source()["state"] == "current", gateway.source()
    loads[1].stop()

    proxy.mode = "slow"
    scene.desire(references[3])
    eventually("the roll-out begins", lambda: second.source()["reference"] == references[3])
    second.kill()
    assert not second.has_committed(versions[3]), "it was not killed in the middle"
    second.start()
    for gateway in (first, second):
        eventually("both serve it", lambda: gateway.serves(versions[3]))
    loads[0].stop()
    for gateway in (first, second):
        outcomes = [outcome for version, outcome in gateway.outcomes() if version == digest(versions[3])]
        assert outcomes == ["staged", "verified", "live"], outcomes
    # What is there is not asked for again.
    asked = proxy.asked
    scene.desire(references[2])
    eventually("the version before serves", lambda: first.serves(versions[2]) and second.serves(versions[2]))
    assert proxy.asked == asked, "a component that was there was pulled again"


def registry_down(scene):
    """What is committed serves without a registry; the rest comes once there is one."""
    registry = scene.registry()
    old, new = version("down-1"), version("down-2")
    references = [registry.put(component) for component in (old, new)]
    scene.desire(references[0])
    gateway = scene.gateway().start()
    gateway.kill()
    registry.stop()
    fresh = scene.gateway("fresh").start(is_ready=False)
    scene.desire(references[1])
    gateway.start()
    failed = eventually("the failure is said", lambda: gateway.source()["state"] == "failed" and gateway.source())
    assert registry.host in failed["reason"] and failed["next_try_s"] >= 0, failed
    assert gateway.serves(old)
    # Where a route has nothing at all to serve with, there is nothing to start.
    assert fresh.process.wait(timeout=30) == 1
    assert "plugin `persona` cannot be pulled" in fresh.log() and registry.host in fresh.log(), fresh.log()
    registry.start()
    eventually("it comes by itself", lambda: gateway.serves(new))
    assert gateway.source()["state"] == "current"


def killed_at_every_step(scene):
    """A gateway that is killed once a version is staged, verified or live goes on from there."""
    registry = scene.registry()
    numbers = iter(range(100))
    component = version(f"killed-{next(numbers)}")
    scene.desire(registry.put(component))
    gateway = scene.gateway().start()
    missing = ["staged", "verified", "live"]
    for _ in range(20):
        step, component = missing[0], version(f"killed-{next(numbers)}")
        scene.desire(registry.put(component))
        reached, order, end = None, [None, "staged", "verified", "live"], time.monotonic() + 60
        while order.index(reached) < order.index(step):
            assert time.monotonic() < end, f"it is {reached} after a minute"
            time.sleep(0.0005)
            reached = gateway.committed(component)
        gateway.kill()
        # It may have been faster than its end.
        reached = gateway.committed(component)
        if reached in missing:
            missing.remove(reached)
        gateway.start()
        eventually("it serves", lambda: gateway.serves(component))
        outcomes = [outcome for version, outcome in gateway.outcomes() if version == digest(component)]
        assert outcomes == ["staged", "verified", "live"], (reached, outcomes)
        assert gateway.source()["state"] == "current", gateway.source()
        if not missing:
            return
    raise AssertionError(f"it was never killed while {missing}")


def canaries(scene):
    """The file's canary is that of every gateway: of those that were there and of one that is new."""
    registry = scene.registry()
    one, two, three = (version(f"canary-{number}") for number in range(3))
    references = {component: registry.put(component) for component in (one, two, three)}
    write_config(scene.config, tried(references[one], references[two], 10))
    gateways = [scene.gateway(name).start() for name in "ab"]
    loads = [scene.load(gateway) for gateway in gateways]
    fresh = "cdefg"
    steps = [(one, two, 10), (one, two, 50), (one, three, 50), (three, None, 0), (two, three, 5), (two, None, 0)]
    for number, (live, canary, percent) in enumerate(steps):
        reference = references[live]
        write_config(scene.config, tried(reference, references[canary], percent) if canary else quoted(reference))
        expected = [digest(live)], [(digest(canary), percent)] if canary else []
        if number < len(fresh):
            gateways.append(scene.gateway(fresh[number]).start())
        for gateway in gateways:
            eventually(f"step {number}", lambda: gateway.standing() == expected)
            eventually("it says so", lambda: all(source["state"] == "current" for source in gateway.sources()))
        while len(gateways) > 2:
            gateways.pop().kill()
    outcomes = [outcome for version, outcome in gateways[0].outcomes() if version == digest(two)]
    assert outcomes == ["staged", "verified", "canary 10 %", "canary 50 %", "retired", "live"], outcomes
    for load in loads:
        load.stop()
    # What the guard or somebody took back does not come again with a larger share, or a restart.
    write_config(scene.config, tried(references[two], references[one], 10))
    for gateway in gateways:
        eventually("it is tried", lambda: gateway.standing()[1] == [(digest(one), 10)])
    gateways[0].json("/admin/v1/plugins/persona/rollback", "POST")
    gateways[0].kill()
    gateways[0].start()
    write_config(scene.config, tried(references[two], references[one], 90))
    eventually("the other follows", lambda: gateways[1].standing()[1] == [(digest(one), 90)])
    time.sleep(3)
    assert gateways[0].standing() == ([digest(two)], []), gateways[0].standing()
    assert gateways[0].sources()[1]["state"] == "withdrawn", gateways[0].sources()
    # The form that says nothing of the live version is refused, and what was read stays in force.
    write_config(scene.config, f'{{ oci = "{references[three]}", canary = 10 }}')
    code, _, said = gapura("check", "--config", scene.config)
    assert code == 1 and "name the live version and the canary" in said, said


def a_registry_that_stalls(scene, mode="stall"):
    """It costs its own pull, and no request."""
    registry = scene.registry()
    proxy = scene.proxy(registry)
    old, new = version("stall-1"), version("stall-2")
    references = [proxy.through(registry.put(component)) for component in (old, new)]
    scene.desire(references[0])
    gateway = scene.gateway().start()
    proxy.mode = mode
    load = scene.load(gateway)
    scene.desire(references[1])
    eventually("it is pulling", lambda: gateway.source()["state"] == "pulling")
    failed = eventually("it has given up", lambda: gateway.source()["state"] == "failed" and gateway.source(), seconds=60)
    assert "timeout" in failed["reason"], failed
    assert gateway.serves(old)
    proxy.release()
    eventually("it comes by itself", lambda: gateway.serves(new), seconds=60)
    load.stop()


def a_registry_that_stalls_at_the_manifest(scene):
    """The same, before anything is known of the component."""
    a_registry_that_stalls(scene, "stall-manifest")


def a_registry_that_trickles(scene):
    """A newer reference does not wait for it, and it ends after a minute."""
    registry = scene.registry()
    proxy = scene.proxy(registry)
    old, slow, new = (version(f"trickle-{number}") for number in range(3))
    references = [registry.put(component) for component in (old, slow, new)]
    scene.desire(references[0])
    gateway = scene.gateway().start()
    proxy.mode = "trickle"
    scene.desire(proxy.through(references[1]))
    eventually("it trickles", lambda: proxy.asked == 2)
    assert gateway.source()["state"] == "pulling", gateway.source()
    scene.desire(references[2])
    eventually("the newer one serves", lambda: gateway.serves(new))
    assert not proxy.trickled, "it was not on its way any more"
    eventually("it has an end", lambda: proxy.trickled, seconds=90)
    assert 50 < proxy.trickled[0] < 75, proxy.trickled
    time.sleep(2)
    assert gateway.serves(new) and proxy.asked == 2
    assert digest(slow) not in [version for version, _ in gateway.outcomes()]


def a_registry_that_lies(scene):
    """Garbage, another content, and more than there may be: named, and nothing else."""
    registry = scene.registry()
    proxy = scene.proxy(registry)
    old, tampered, large = version("lies-1"), version("lies-2"), version("lies-3") + bytes([0, 0x81, 0x80, 0x40, 0]) + bytes(1 << 20)
    references = [proxy.through(registry.put(component)) for component in (old, tampered, large)]
    registry.tamper(tampered)
    limit = {"max_bytes": 1 << 20}
    scene.desire(references[0], **limit)
    gateway = scene.gateway().start()
    load = scene.load(gateway)
    cases = [("garbage", proxy.through(registry.put(version("lies-4"))), "the manifest is not what was asked for"),
             ("pass", references[1], "the component is not what was asked for"),
             ("pass", references[2], f"more than the {limit['max_bytes']} bytes")]
    for mode, reference, reason in cases:
        proxy.mode = mode
        scene.desire(reference, **limit)
        eventually(reason, lambda: reason in (gateway.source()["reason"] or ""))
        assert gateway.source()["state"] == "failed"
        assert gateway.serves(old)
    series = 'gapura_plugin_source_info{plugin="persona",role="live",state="failed"} 1'
    assert series in gateway.ask("/metrics")[1].decode()
    load.stop()


def verification_refuses(scene):
    """A version that may not serve stays staged, and is not tried again until asked."""
    registry = scene.registry()
    old, new, junk = version("refused-1"), version("refused-2"), b"\0asm\x01\0\0\0"
    references = [registry.put(component) for component in (old, new, junk)]
    scene.desire(references[0])
    gateway = scene.gateway().start()
    scene.desire(references[2])
    eventually("it is refused", lambda: gateway.source()["state"] == "failed" and "component" in gateway.source()["reason"])
    assert gateway.source()["next_try_s"] is None
    before = gateway.outcomes()
    gateway.hang_up()
    time.sleep(4)
    assert gateway.outcomes() == before and before[-1] == (digest(junk), "refused"), gateway.outcomes()
    assert gateway.serves(old)
    scene.desire(references[1])
    eventually("the next one serves", lambda: gateway.serves(new))


def rolled_back(scene):
    """What an operator took back stays back, until the file says something else."""
    registry = scene.registry()
    old, new, next_one = (version(f"back-{number}") for number in range(3))
    references = [registry.put(component) for component in (old, new, next_one)]
    scene.desire(references[0])
    gateway = scene.gateway().start()
    scene.desire(references[1])
    eventually("it serves", lambda: gateway.serves(new))
    gateway.json("/admin/v1/plugins/persona/rollback", "POST")
    gateway.json("/admin/v1/reload", "POST")
    time.sleep(3)
    assert gateway.serves(old)
    assert gateway.source()["state"] == "withdrawn", gateway.source()
    gateway.kill()
    gateway.start()
    time.sleep(2)
    assert gateway.serves(old)
    assert gateway.source()["state"] == "withdrawn", gateway.source()
    write_config(scene.config, tried(references[0], references[2], 50))
    eventually("it is a canary", lambda: gateway.outcomes()[-1] == (digest(next_one), "canary 50 %"))
    assert [source["state"] for source in gateway.sources()] == ["current", "current"], gateway.sources()
    gateway.json("/admin/v1/plugins/persona/activate", "POST")
    assert gateway.serves(next_one)


SCENARIOS = [a_registry_that_trickles, canaries, a_registry_that_stalls, a_registry_that_stalls_at_the_manifest,
             killed_at_every_step, two_gateways, registry_down, a_registry_that_lies, rolled_back,
             verification_refuses, logins, publish_and_pull]


def play(scenario):
    """Seconds, and what went wrong."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        scene, wrong = Scene(folder), None
        try:
            scenario(scene)
        except Exception:
            logs = "".join(f"\n--- {log.parent.name}\n{log.read_text()[-3000:]}" for log in scene.folder.glob("[!r]*/log"))
            wrong = traceback.format_exc() + logs
        finally:
            for end in reversed(scene.ending):
                end()
    return time.monotonic() - started, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="scenarios whose name has this in it")
    parser.add_argument("--jobs", type=int, default=4, help="scenarios at a time")
    args = parser.parse_args()
    scenarios = [scenario for scenario in SCENARIOS if args.only in scenario.__name__]
    found, reason = program()
    if not found:
        print(f"SKIPPED, all of it: {reason}", file=sys.stderr)
        print(f"0 passed, 0 failed, {len(scenarios)} skipped")
        is_required = os.environ.get("GAPURA_REQUIRE_ALL") == "1"
        return 1 if is_required else 0
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        running = {pool.submit(play, scenario): scenario for scenario in scenarios}
        for done in concurrent.futures.as_completed(running):
            seconds, wrong = done.result()
            failed += wrong is not None
            print(f"{'FAILED' if wrong else 'ok':6} {running[done].__name__:24} {seconds:5.1f} s", flush=True)
            if wrong:
                print(wrong, flush=True)
    print(f"{len(scenarios) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
