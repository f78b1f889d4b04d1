"""What is looked at, each on a gateway of its own."""

import re
from pathlib import Path

from playwright.sync_api import Browser, Locator, expect
from server import HOSTILE, TOKEN, Registry, Server, component, digits, gapura, with_section

expect.set_options(timeout=15_000)


class Page:
    """The page in a browser, with all that it sends and complains of."""

    def __init__(self, chromium: Browser, server: Server):
        self.server = server
        self.context = chromium.new_context(viewport={"width": 1100, "height": 900}, locale="en-GB")
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.requests = []
        self.console = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.console.append(f"exception: {error}"))

    def enter(self):
        """Opens the page and logs in."""
        self.page.goto(f"{self.server.url}/ui")
        self.page.get_by_label("Token", exact=True).fill(TOKEN)
        self.page.get_by_role("button", name="Enter").click()
        expect(self.page.get_by_role("heading", name="Routes")).to_be_visible()

    def plugin(self, name: str) -> Locator:
        return self.page.get_by_role("article", name=f"Plugin {name}")

    def version(self, name: str, wasm: bytes) -> Locator:
        """The line of a version."""
        versions = self.page.get_by_role("group", name=f"Versions of {name}")
        return versions.get_by_role("row").filter(has_text=f"+{digits(wasm)}")

    def confirm(self, move: str, share: int | str | None = None) -> str:
        """Agrees to what the dialog asks; what it asks."""
        dialog = self.page.get_by_role("dialog")
        text = dialog.inner_text()
        if share is not None:
            dialog.get_by_label("Requests of a hundred").fill(str(share))
        dialog.get_by_role("button", name=move).click()
        return text

    def said(self) -> Locator:
        return self.page.locator("#said")

    def ask(self, route: str, text: str, version: str = "live"):
        self.page.get_by_label("Route", exact=True).select_option(route)
        self.page.get_by_label("Version", exact=True).select_option(version)
        self.page.get_by_label("Message").fill(text)
        self.page.get_by_role("button", name="Send").click()

    def is_clean(self):
        """Nothing went elsewhere, nothing was blocked, no markup out of data has run."""
        elsewhere = [url for url in self.requests if not url.startswith((self.server.url, "data:"))]
        assert not elsewhere, elsewhere
        assert not any(TOKEN in url for url in self.requests), "the token is in an address"
        # The browser itself writes a line for an answer that is an error.
        complaints = [line for line in self.console if "Failed to load resource" not in line]
        assert not complaints, complaints
        assert self.page.evaluate("window.pwned") is None, "markup out of data has run"
        assert self.page.locator("img").count() == 0

    def picture(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=file, full_page=True)

    def close(self):
        self.context.close()


def a_wrong_token_says_so_and_a_right_one_enters(page: Page):
    page.page.goto(f"{page.server.url}/ui")
    expect(page.page.get_by_role("heading", name="Routes")).to_be_hidden()
    expect(page.page.get_by_label("Token", exact=True)).to_be_focused()
    page.page.keyboard.type("wrong")
    page.page.keyboard.press("Enter")
    expect(page.page.get_by_role("alert").filter(has_text="the administration token is wrong")).to_be_visible()
    page.page.get_by_label("Token", exact=True).fill(TOKEN)
    page.page.keyboard.press("Enter")
    expect(page.page.get_by_role("heading", name="Routes")).to_be_visible()
    stored = "[sessionStorage.length, localStorage.length, document.cookie, location.href]"
    assert page.page.evaluate(stored) == [1, 0, "", f"{page.server.url}/ui"]
    page.page.reload()
    expect(page.page.get_by_role("heading", name="Routes")).to_be_visible()
    page.page.get_by_role("button", name="Forget the token").click()
    expect(page.page.get_by_role("heading", name="Routes")).to_be_hidden()
    assert page.page.evaluate("sessionStorage.length") == 0


def routes_and_plugins_are_shown_with_their_versions(page: Page):
    page.enter()
    route = page.page.get_by_role("group", name="Routes").get_by_role("row").filter(has_text="asisten")
    for expected in "sari", "voice@", "pii-redact@", "chatml@", f"+{digits(component('persona'))}", "validate", "on failure closed":
        expect(route).to_contain_text(expected)
    version = page.version("voice", component("persona"))
    expect(version).to_contain_text("live")
    expect(version).to_contain_text("KiB")
    expect(page.page.get_by_role("group", name="History")).to_contain_text("plugin voice")
    page.page.get_by_label("Of", exact=True).select_option("plugin pii-redact")
    expect(page.page.get_by_role("group", name="History")).not_to_contain_text("plugin voice")


def a_version_is_pushed_tried_activated_and_rolled_back(page: Page):
    live, new = component("persona"), with_section(component("persona"), "mark", b"new")
    page.enter()
    page.page.get_by_text("Push a component").click()
    page.page.get_by_label("Component").set_input_files({"name": "voice.wasm", "mimeType": "application/wasm", "buffer": new})
    expect(page.page.get_by_label("Plugin", exact=True)).to_have_value("voice")
    page.page.get_by_role("button", name="Push until verified").click()
    expect(page.version("voice", new)).to_contain_text("verified")

    page.version("voice", new).get_by_role("button", name="Canary").click()
    asked = page.confirm("Canary", 60)
    assert digits(new) in asked and digits(live) in asked and "sari" in asked, asked
    expect(page.version("voice", new)).to_contain_text("canary 60 %")
    page.server.traffic(20)
    trial = page.plugin("voice").locator("[data-trial]")
    requests = trial.get_by_role("row").filter(has_text="judged from 10 on").get_by_role("cell")
    expect(requests.nth(1)).to_have_text(re.compile("[1-9]"))
    expect(requests.nth(2)).to_have_text(re.compile("[1-9]"))
    both = [int(requests.nth(column).inner_text()) for column in (1, 2)]
    assert sum(both) == 20, both
    for row in "Failure rate", "p50 µs", "p95 µs", "p99 µs":
        expect(trial.get_by_role("row").filter(has_text=row)).to_be_visible()
    expect(trial).to_contain_text("at most 2 %")

    page.version("voice", new).get_by_role("button", name="Activate").click()
    asked = page.confirm("Activate")
    assert digits(new) in asked and digits(live) in asked and "sari" in asked, asked
    expect(page.version("voice", new)).to_contain_text("live")
    expect(page.version("voice", live)).to_contain_text("retired")
    expect(trial).to_contain_text(f"New: voice@0.1.0+{digits(new)}")
    page.plugin("voice").get_by_role("button", name="Roll back").click()
    asked = page.confirm("Roll back")
    assert digits(new) in asked and digits(live) in asked, asked
    expect(page.version("voice", live)).to_contain_text("live")
    expect(page.version("voice", new)).to_contain_text("retired")


def a_move_that_is_not_allowed_says_why(page: Page):
    new = with_section(component("persona"), "mark", b"new")
    assert page.server.push("voice", new)[0] == 201
    page.enter()
    page.version("voice", new).get_by_role("button", name="Canary").click()
    # Somebody else was faster.
    assert page.server.admin("POST", "plugins/voice/activate", {})[0] == 200
    page.confirm("Canary", 10)
    problem = page.page.get_by_role("dialog").get_by_role("alert")
    expect(problem).to_contain_text("is live: only another version can")
    page.page.keyboard.press("Escape")
    expect(page.page.get_by_role("dialog")).to_be_hidden()
    expect(page.version("voice", new)).to_contain_text("live")


def a_share_that_is_none_says_so_at_its_field(page: Page):
    new = with_section(component("persona"), "mark", b"new")
    assert page.server.push("voice", new)[0] == 201
    page.enter()
    page.version("voice", new).get_by_role("button", name="Canary").click()
    dialog = page.page.get_by_role("dialog")
    share = dialog.get_by_label("Requests of a hundred")
    for wrong, why in ("0", "percent is 0; a canary takes 1 to 100"), ("2.5", "`percent` is 2.5"), ("", "`percent` is required"):
        page.confirm("Canary", wrong)
        expect(share).to_have_attribute("aria-invalid", "true")
        expect(share).to_have_accessible_description(re.compile(re.escape(why)))
        expect(share).to_be_focused()
        expect(dialog.locator("#confirm-error")).to_be_empty()
    page.confirm("Canary", 5)
    expect(page.version("voice", new)).to_contain_text("canary 5 %")
    page.version("voice", new).get_by_role("button", name="Canary").click()
    expect(dialog.locator("#percent-error")).to_be_empty()


def a_canary_that_fails_is_rolled_back_and_the_page_says_why(page: Page):
    broken = component("request-guard")
    assert page.server.push("voice", broken)[0] == 201
    page.enter()
    page.version("voice", broken).get_by_role("button", name="Canary").click()
    page.confirm("Canary", 50)
    expect(page.version("voice", broken)).to_contain_text("canary 50 %")
    # Too few failures for the guard: both sides are there to be compared.
    for version, answer in ("live", "Ended: stop"), ("trial", "The client gets 500"):
        for _ in range(3):
            page.ask("sari", "Halo", version)
            expect(page.page.locator("#explanation")).to_contain_text(answer)
    trial = page.plugin("voice").locator("[data-trial]")
    rows = trial.get_by_role("row")
    counts = rows.filter(has_text="judged from 10 on").get_by_role("cell")
    expect(counts.nth(1)).to_have_text("3")
    expect(counts.nth(2)).to_have_text("3")
    failures = rows.filter(has_text="Failure rate").get_by_role("cell")
    expect(failures.nth(1)).to_have_text("0 %")
    expect(failures.nth(2)).to_have_text("100 % (over)")
    expect(failures.nth(3)).to_have_text("at most 2 %")
    expect(page.page.locator("#rollbacks")).to_be_empty()
    page.server.later(page.server.traffic, 60)
    notice = page.page.locator("#rollbacks").get_by_text("Rolled back automatically")
    expect(notice).to_contain_text("it failed in")
    expect(notice).to_contain_text(digits(broken))
    expect(page.plugin("voice").locator("[data-rollback]")).to_contain_text("it failed in")
    expect(page.version("voice", broken)).to_contain_text("retired")
    expect(page.version("voice", component("persona"))).to_contain_text("live")
    # Whoever comes later sees it too, until something else is done with the plugin.
    page.page.reload()
    expect(page.plugin("voice").locator("[data-rollback]")).to_contain_text("it failed in")
    page.version("voice", broken).get_by_role("button", name="Shadow").click()
    page.confirm("Shadow")
    expect(page.plugin("voice").locator("[data-rollback]")).to_have_count(0)


def an_open_breaker_is_shown_at_its_plugin(page: Page):
    page.enter()
    routes = page.page.get_by_role("group", name="Routes").get_by_role("row")
    route = routes.filter(has=page.page.get_by_role("button", name="Chat through broken"))
    expect(route).not_to_contain_text("breaker")
    statuses = [page.server.chat("somebody", "broken") for _ in range(3)]
    assert (statuses[0], statuses[-1]) == (500, 503), statuses
    page.page.reload()
    expect(route.locator("strong")).to_have_text(re.compile(r"breaker open, next try in \d+ ms"))
    expect(routes.filter(has_text="asisten")).not_to_contain_text("breaker")


def plugins_by_reference_are_shown_until_they_serve(page: Page):
    wasm = with_section(component("persona"), "mark", b"registry")
    registry = Registry(wasm)
    page.server.configure(f'[plugins.sources]\nvoice = "{registry.reference}"\n')
    page.enter()
    row = page.page.get_by_role("group", name="From registries").get_by_role("row").filter(has_text="voice")
    expect(row).to_contain_text(registry.reference)
    expect(row.locator(".state")).to_have_text("failed")
    expect(row).to_contain_text(f"127.0.0.1:{registry.port}")
    expect(row).to_contain_text(re.compile(r"asked again in \d+ s"))
    with registry:
        expect(row.locator(".state")).to_have_text("current")
        expect(page.version("voice", wasm)).to_contain_text("live")
        expect(page.version("voice", wasm)).to_contain_text("registry")


def a_component_is_pushed_with_its_signature(page: Page):
    folder = Path(page.server.folder.name)
    trusted = gapura("key", "new", "--signing", folder / "release.key", "--name", "release").split("\n\n", 1)[1]
    page.server.configure(trusted)
    new, other = (with_section(component("persona"), "mark", mark) for mark in (b"new", b"other"))
    signatures = []
    for name, wasm in ("new", new), ("other", other):
        (folder / f"{name}.wasm").write_bytes(wasm)
        gapura("plugin", "sign", folder / f"{name}.wasm", "--key", folder / "release.key")
        signatures.append((folder / f"{name}.wasm.sig").read_bytes())
    page.enter()
    page.page.get_by_text("Push a component").click()

    def push(signature: bytes):
        page.page.get_by_label("Component").set_input_files(
            {"name": "voice.wasm", "mimeType": "application/wasm", "buffer": new})
        page.page.get_by_label("Signature").set_input_files(
            {"name": "voice.wasm.sig", "mimeType": "text/plain", "buffer": signature})
        page.page.get_by_role("button", name="Push until verified").click()

    push(signatures[1])
    expect(page.said()).to_contain_text("the signature by ed25519:")
    expect(page.version("voice", new)).to_contain_text("staged")
    expect(page.version("voice", new)).not_to_contain_text("signed by")
    push(signatures[0])
    expect(page.version("voice", new)).to_contain_text("signed by release")
    expect(page.version("voice", new)).to_contain_text("verified")


def what_is_granted_is_shown_before_and_after_a_push(page: Page):
    page.enter()
    granted = page.plugin("request-guard").get_by_role("list", name="Granted to request-guard").get_by_role("listitem")
    expect(granted).to_have_text(["broken grants log, config, tokenizer", "strict grants log, config, tokenizer"])
    # It imports the model, which the route does not grant.
    page.page.get_by_text("Push a component").click()
    page.page.get_by_label("Component").set_input_files(
        {"name": "voice.wasm", "mimeType": "application/wasm", "buffer": component("judge")})
    promised = page.page.locator("#push-grants")
    expect(promised).to_have_text("sari grants log, config, tokenizer")
    page.page.get_by_label("Plugin", exact=True).fill("unheard-of")
    expect(promised).to_have_text("No route binds it yet.")
    page.page.get_by_label("Plugin", exact=True).fill("voice")
    page.page.get_by_role("button", name="Push until verified").click()
    expect(page.said()).to_contain_text("does not grant")
    # One that was verified before the configuration took something from it.
    other = component("request-guard")
    assert page.server.push("voice", other)[0] == 201
    expect(page.version("voice", other)).to_contain_text("tokenizer")
    config = Path(page.server.folder.name) / "gapura.toml"
    config.write_text(config.read_text().replace('"voice", grants = ["log", "config", "tokenizer"]', '"voice"'))
    assert page.server.admin("POST", "reload")[0] == 200
    expect(page.version("voice", other)).to_contain_text("sari does not grant tokenizer")
    expect(page.version("voice", component("persona"))).not_to_contain_text("does not grant")


def a_shadow_shows_how_much_differs(page: Page):
    # Without its settings' text the candidate makes another prompt of each request.
    other = with_section(component("pii-redact"), "mark", b"other")
    assert page.server.push("voice", other)[0] == 201
    page.enter()
    page.version("voice", other).get_by_role("button", name="Shadow").click()
    page.confirm("Shadow")
    expect(page.version("voice", other)).to_contain_text("shadow")
    page.server.traffic(3)
    trial = page.plugin("voice").locator("[data-trial]")
    expect(trial).to_contain_text("Compared 3, the same 0")


def a_chat_shows_answer_prompt_and_what_plugins_did(page: Page):
    page.enter()
    page.page.get_by_role("button", name="Chat through sari").click()
    expect(page.page.get_by_label("Message")).to_be_focused()
    page.ask("sari", "tulis ke siti@example.com")
    expect(page.page.locator("#answer-end")).to_contain_text("Ended: stop")
    answer, prompt = page.page.locator("#answer"), page.page.locator("#prompt")
    expect(answer).to_contain_text("You said: tulis ke")
    expect(answer).not_to_contain_text("siti@example.com")
    expect(prompt).to_contain_text("Kamu adalah Sari.")
    expect(prompt.locator(".control").first).to_have_text("<|im_start|>")
    explanation = page.page.locator("#explanation")
    expect(explanation.get_by_role("listitem").first).to_contain_text("amends")
    calls = explanation.get_by_role("group", name="Calls of plugins").get_by_role("row")
    for plugin, function in ("voice@", "validate"), ("chatml@", "render"), ("pii-redact@", "push"):
        expect(calls.filter(has_text=plugin).filter(has_text=function).first).to_be_visible()


def a_refusal_is_explained_and_the_version_on_trial_can_be_asked(page: Page):
    page.enter()
    page.ask("strict", "nomor rekening?")
    explanation = page.page.locator("#explanation")
    expect(explanation.get_by_role("alert")).to_contain_text("The client gets 400: No.")
    expect(explanation.get_by_role("listitem")).to_contain_text("refuses with 400 off_topic")
    expect(page.page.get_by_label("Version", exact=True).locator("option[value=trial]")).to_be_disabled()
    broken = component("request-guard")
    assert page.server.push("voice", broken)[0] == 201
    assert page.server.admin("POST", "plugins/voice/canary", {"percent": 1})[0] == 200
    expect(page.version("voice", broken)).to_contain_text("canary 1 %")
    page.ask("sari", "Halo", "trial")
    expect(explanation.get_by_role("alert")).to_contain_text("The client gets 500")
    page.ask("sari", "Halo")
    expect(page.page.locator("#answer-end")).to_contain_text("Ended: stop")


def costs_are_shown_and_stay_open(page: Page):
    page.server.traffic(5)
    page.enter()
    voice = page.plugin("voice")
    voice.get_by_text("What it costs").click()
    row = voice.get_by_role("group", name="Requests of voice").get_by_role("row").filter(has_text="sari")
    expect(row.get_by_role("cell").nth(2)).to_have_text("5")
    page.server.traffic(2)
    # A change of another plugin draws the page anew.
    assert page.server.push("pii-redact", with_section(component("pii-redact"), "mark", b"new"))[0] == 201
    expect(row.get_by_role("cell").nth(2)).to_have_text("7")
    expect(row).to_be_visible()


def what_is_hostile_stays_text(page: Page):
    case = with_section(component("persona"), "gapura:case", f"{HOSTILE}\nnonsense".encode())
    assert page.server.push("voice", case)[0] == 422
    assert page.server.push(HOSTILE, component("persona"))[0] == 422
    page.enter()
    expect(page.version("voice", case)).to_contain_text(HOSTILE)
    expect(page.page.get_by_role("group", name="History")).to_contain_text(HOSTILE)
    page.ask("sari", HOSTILE)
    expect(page.page.locator("#answer-end")).to_contain_text("Ended: stop")
    expect(page.page.locator("#answer")).to_contain_text(HOSTILE)
    expect(page.page.locator("#prompt")).to_contain_text(HOSTILE)
    page.is_clean()
    page.ask("strict", "nomor rekening?")
    expect(page.page.locator("#explanation").get_by_role("alert")).to_contain_text(HOSTILE)
    # Were a string to become markup, the browser itself would forbid it.
    forbidden = "try { document.body.innerHTML = '<b>x</b>'; false } catch { true }"
    assert page.page.evaluate(forbidden)
    page.console.clear()


def the_page_follows_a_server_that_ends_and_comes_back(page: Page):
    page.enter()
    connection = page.page.locator("#connection")
    expect(connection).to_have_text("following changes")
    assert page.server.stop() < 5, "an open stream of events kept the server from ending"
    assert "cut running requests" not in page.server.log()
    expect(connection).to_have_text("not connected, trying again")
    page.server.start()
    expect(connection).to_have_text("following changes")
    assert page.server.push("voice", with_section(component("persona"), "mark", b"new"))[0] == 201
    expect(page.said()).to_contain_text("plugin voice")


def a_stream_that_breaks_off_is_said_and_followed_again(page: Page):
    page.server.configure("[engine]\nsim_step_ms = 200\n")
    page.enter()
    connection = page.page.locator("#connection")
    expect(connection).to_have_text("following changes")
    page.ask("sari", "satu dua tiga empat lima enam tujuh delapan sembilan sepuluh")
    expect(page.page.locator("#answer")).not_to_be_empty()
    stop = page.page.get_by_role("button", name="Stop")
    expect(stop).to_be_enabled()
    page.server.kill()
    expect(connection).to_have_text("not connected, trying again")
    expect(page.page.locator("#explanation").get_by_role("alert")).to_have_text("the answer broke off")
    expect(stop).to_be_disabled()
    page.server.start()
    expect(connection).to_have_text("following changes")
    assert page.server.push("voice", with_section(component("persona"), "mark", b"new"))[0] == 201
    expect(page.said()).to_contain_text("plugin voice")


def it_works_in_a_narrow_window_dark_and_with_the_keyboard(page: Page):
    page.page.emulate_media(color_scheme="dark")
    page.page.set_viewport_size({"width": 340, "height": 700})
    page.enter()
    is_too_wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.page.evaluate(is_too_wide), "the page scrolls sideways"
    assert page.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 23)"
    new = with_section(component("persona"), "mark", b"new")
    assert page.server.push("voice", new)[0] == 201
    button = page.version("voice", new).get_by_role("button", name="Activate")
    button.focus()
    page.page.keyboard.press("Enter")
    dialog = page.page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    assert page.page.evaluate("document.activeElement.closest('dialog') !== null"), "focus is not in the dialog"
    page.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()
    expect(page.version("voice", new)).to_contain_text("verified")


def the_page_forbids_what_it_does_not_need(page: Page):
    for path, kind in ("/ui", "text/html"), ("/ui/app.js", "text/javascript"), ("/ui/style.css", "text/css"):
        headers = page.page.goto(f"{page.server.url}{path}").headers
        policy = headers["content-security-policy"]
        for rule in "default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'":
            assert rule in policy, policy
        assert "unsafe" not in policy and headers["x-content-type-options"] == "nosniff"
        assert headers["content-type"].startswith(kind), headers["content-type"]


CHECKS = [
    a_wrong_token_says_so_and_a_right_one_enters,
    routes_and_plugins_are_shown_with_their_versions,
    a_version_is_pushed_tried_activated_and_rolled_back,
    a_move_that_is_not_allowed_says_why,
    a_share_that_is_none_says_so_at_its_field,
    a_canary_that_fails_is_rolled_back_and_the_page_says_why,
    an_open_breaker_is_shown_at_its_plugin,
    plugins_by_reference_are_shown_until_they_serve,
    a_component_is_pushed_with_its_signature,
    what_is_granted_is_shown_before_and_after_a_push,
    a_shadow_shows_how_much_differs,
    a_chat_shows_answer_prompt_and_what_plugins_did,
    a_refusal_is_explained_and_the_version_on_trial_can_be_asked,
    costs_are_shown_and_stay_open,
    what_is_hostile_stays_text,
    the_page_follows_a_server_that_ends_and_comes_back,
    a_stream_that_breaks_off_is_said_and_followed_again,
    it_works_in_a_narrow_window_dark_and_with_the_keyboard,
    the_page_forbids_what_it_does_not_need,
]
