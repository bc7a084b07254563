"""The page of `mal serve`, driven in a headless Chromium as a person would: by what is seen, said and pressed."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metaaligner_lite.chats import read_chat

pytest.importorskip("selenium", reason="needs selenium (`pip install --group dev`)")

import page_stand as stand
from page_stand import PAGE, StandIn, Step, aligned, answer, names, policy, serving
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

BEFORE = "Check the tracking page first. Then utilize the form."
AFTER = "I am sorry. Check the tracking page first. Then use the form."
# How a model's text would reach a browser's hands; none may come further than letters.
HOSTILE = """# Heading
<script>window.hacked = 1</script> <img src=x onerror="window.hacked = 2"> <svg/onload=window.hacked=3>
[click](javascript:window.hacked=4) [data](data:text/html,<script>window.hacked=5</script>)
<a href="javascript:hacked=6">x</a> [tab](java\tscript:window.hacked=7)
[vb](vbscript:x) [entity](&#106;avascript:window.hacked=8) [good](https://example.org/a)
![picture](http://127.0.0.1:1/remote.png "t") ![local](/leak.png) <img src="/leak2.png">
<style>body{display:none}</style>
<iframe src="/leak3"></iframe> <form action="/leak4"><input name=a></form> <link rel=stylesheet href="/leak5.css">
<div style="background:url(/leak6.png)" id="turns" class="hidden">clobber</div> <b>unclosed <i>tags
<table><tr><td>&lt;script&gt; ]]> --> </script></textarea></title><base href="http://127.0.0.1:1/">
```html
<script>window.hacked = 9</script>
"""


class Page:
    """The page as its user has it: texts to read, things to press."""

    def __init__(self, browser: Chrome, server: StandIn) -> None:
        self.browser, self.server = browser, server

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return self._drawn_once(lambda: [element.text for element in self.all(selector)])

    def button(self, name: str) -> WebElement:
        """The button of this accessible name, which is the only one seen of that name."""
        self.settle()
        found = self._drawn_once(
            lambda: [one for one in self.all("button") if one.is_displayed() and one.accessible_name == name]
        )
        assert len(found) == 1, f"{len(found)} buttons are called {name}"
        return found[0]

    def until(self, true: Callable[[], Any], within: float = 30) -> Any:
        wait = WebDriverWait(self.browser, within, 0.05, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(lambda _: true())

    def settle(self) -> None:
        """Wait until the page has not been drawn anew for a tenth of a second; one that streams is as it is."""
        until, seen = time.monotonic() + 5, ""
        while time.monotonic() < until and not self.all("body.running"):
            last, seen = seen, self.script("return document.body.innerHTML")
            if seen == last:
                return
            time.sleep(0.1)

    def _drawn_once(self, read: Callable[[], list[Any]]) -> list[Any]:
        """What is read of elements that the page may replace meanwhile."""
        return self.until(lambda: (read(),))[0]

    def type(self, text: str) -> None:
        self.one("#query").send_keys(text)

    def ask(self, text: str) -> None:
        self.type(text + Keys.ENTER)
        self.until(lambda: not self.all("body.running"))
        self.settle()

    def choose(self, *wanted: str, of: str = "Choose objectives") -> None:
        self.button(of).click()
        for name in wanted:
            self.one(f'#choices input[value="{name}"]').click()
        self.one("#picker footer button").click()

    def script(self, text: str) -> Any:
        return self.browser.execute_script(text)

    def press(self, key: str, held: str = Keys.ALT) -> None:
        ActionChains(self.browser).key_down(held).send_keys(key).key_up(held).perform()

    def complaints(self) -> list[str]:
        """What the browser complained of since the last look: refused loads, errors of scripts."""
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def stored(self) -> list[dict[str, Any]]:
        return self.script(
            "return Object.keys(localStorage).filter(key => key.startsWith('mal.chat.'))"
            ".map(key => JSON.parse(localStorage[key]))"
        )


@pytest.fixture(scope="session")
def _stand() -> Iterator[StandIn]:
    with serving(list) as opened:
        yield opened


@pytest.fixture
def server(_stand: StandIn) -> StandIn:
    _stand.start_over(lambda body: answer(BEFORE, AFTER, names(body)))
    return _stand


@pytest.fixture
def page(_chrome: tuple[Chrome, Path], server: StandIn) -> Iterator[Page]:
    browser = _chrome[0]
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.get(server.url + "blank")
    browser.execute_script("localStorage.clear(); sessionStorage.clear()")
    browser.get(server.url)
    opened = Page(browser, server)
    opened.complaints()
    opened.until(lambda: opened.all("#model option"))
    yield opened


# --- sending and streaming ---


def test_an_answer_and_its_edit_side_by_side(page: Page) -> None:
    page.choose("empathy", "clarity")
    page.ask("My parcel is late.")
    assert page.texts(".said p") == ["My parcel is late."]
    assert page.one(".policy .text").text == BEFORE
    assert page.one(".aligned .text").text == AFTER
    assert page.texts(".aligned .toward li") == ["empathy", "clarity"]
    sent = page.server.asked[0]
    assert sent["messages"] == [{"role": "user", "content": "My parcel is late."}]
    assert (sent["stream"], sent["model"]) == (True, "aligned")
    assert sent["metaaligner"] == {"objectives": ["empathy", "clarity"], "show": "both"}
    assert page.complaints() == []


def test_counts_of_each_stage(page: Page) -> None:
    page.ask("My parcel is late.")
    read = [re.sub(r"\s+", " ", text) for text in page.texts(".counts dl")]
    assert read == [
        "read 41 reused 12 written 38 copied 0 time 1.9 s",
        "read 96 reused 33 written 47 copied 29 time 0.8 s",
    ]


def test_streaming_is_live_and_told_without_noise(page: Page) -> None:
    first, second = threading.Event(), threading.Event()
    page.server.reply = lambda body: [
        *[policy("Check"), first, policy(" it."), aligned("Please"), second, aligned(" check it.")],
        *[stand.finish("Check it.", ["empathy"]), "data: [DONE]\n\n"],
    ]
    page.script(
        "window.told = []; new MutationObserver(() => told.push(document.getElementById('status').textContent))"
        ".observe(document.getElementById('status'), {childList: true})"
    )
    page.type("Late?" + Keys.ENTER)
    page.until(lambda: page.texts(".policy .text") == ["Check"])
    assert page.one(".policy").get_attribute("aria-busy") == "true"
    first.set()
    page.until(lambda: page.texts(".aligned .text") == ["Please"])
    assert page.texts(".policy .text") == ["Check it."]
    second.set()
    page.until(lambda: page.texts(".aligned .text") == ["Please check it."])
    page.until(lambda: not page.all("body.running"))
    assert page.script("return told") == ["The policy is reading.", "The aligner is editing.", "Done, toward empathy."]
    assert not page.all('#turns[aria-live], #turns [aria-live], [role="log"]')


def test_the_next_message_carries_the_conversation(page: Page) -> None:
    page.ask("One.")
    page.ask("Two.")
    roles = [(message["role"], message["content"]) for message in page.server.asked[1]["messages"]]
    assert roles == [("user", "One."), ("assistant", AFTER), ("user", "Two.")]


def test_events_cut_anywhere_and_line_ends_of_both_kinds(page: Page) -> None:
    whole = "".join(f"data: {json.dumps(one)}\r\n\r\n" for one in [policy("Grüße"), aligned("Grüße 👋🏽")])
    whole += f": keep-alive\r\n\r\ndata: {json.dumps(stand.finish('Grüße', ['empathy']))}\r\n\r\ndata: [DONE]\r\n\r\n"
    page.server.reply = lambda body: [step for sign in whole for step in (sign, 0.0)]
    page.ask("Hallo")
    assert page.texts(".text") == ["Grüße", "Grüße 👋🏽"]


def test_editing_a_message_drops_the_later_ones(page: Page) -> None:
    page.ask("One.")
    page.ask("Two.")
    page.button("Edit message 1").click()
    assert "1 later message goes" in page.one("#editing").text
    page.type(" More.")
    page.ask("")
    assert page.texts(".said p") == ["One. More."]
    assert len(page.server.asked[2]["messages"]) == 1


def test_run_again_uses_the_objectives_of_now(page: Page) -> None:
    page.ask("One.")
    page.choose("brevity")
    page.button("Run again").click()
    page.until(lambda: len(page.server.asked) == 2 and not page.all("body.running"))
    assert page.server.asked[1]["metaaligner"]["objectives"] == ["brevity"]
    assert page.texts(".said p") == ["One."]


def test_settings_go_with_the_request(page: Page) -> None:
    page.button("Settings").click()
    page.one("#system").send_keys("Be kind.")
    page.one("#rounds").send_keys("2")
    page.one("#limit").send_keys("64")
    page.one("#gate option[value=on]").click()
    page.one("#settings footer .strong").click()
    page.ask("One.")
    sent = page.server.asked[0]
    assert sent["messages"][0] == {"role": "system", "content": "Be kind."}
    assert (sent["metaaligner"]["rounds"], sent["metaaligner"]["gate"], sent["max_tokens"]) == (2, True, 64)


# --- objectives and sets ---


def test_chips_show_their_sentences_and_go(page: Page) -> None:
    page.choose("empathy", "clarity")
    assert page.texts(".chip .label") == ["empathy", "clarity"]
    assert "The response should be easy to follow." in page.one(".sentences").text
    page.button("Remove empathy").click()
    assert page.texts(".chip .label") == ["clarity"]
    assert page.browser.switch_to.active_element.accessible_name == "Remove clarity"
    page.browser.refresh()
    page.until(lambda: page.texts(".chip .label") == ["clarity"])


def test_an_objective_of_ones_own(page: Page) -> None:
    page.button("Choose objectives").click()
    page.one("#filter").send_keys("calm" + Keys.ENTER)  # none is called so: its name is taken over
    assert page.one("#own-name").get_property("value") == "calm"
    page.one("#own-sentence").send_keys("The response should be calm." + Keys.ENTER)
    page.until(lambda: page.all('#choices input[value="calm"]:checked'))
    page.one("#own-name").send_keys("empathy" + Keys.TAB + "Another sentence." + Keys.ENTER)
    assert "knows empathy already" in page.one("#own-error").text
    page.one("#picker footer button").click()
    page.ask("One.")
    own = {"name": "calm", "description": "The response should be calm."}
    assert page.server.asked[0]["metaaligner"]["objectives"] == [own]
    page.browser.refresh()
    page.until(lambda: page.texts(".chip .label") == ["calm"])
    page.button("calm").click()
    page.button("Delete calm").click()
    assert page.texts(".chip .label") == []


def test_sets_side_by_side(page: Page) -> None:
    edits = {"empathy": AFTER, "brevity": "Use the form.", "clarity": BEFORE}
    page.server.reply = lambda body: answer(BEFORE, edits[names(body)[0]], names(body))
    page.choose("empathy")
    for name in ("brevity", "clarity"):
        page.button("Compare with another set").click()
        page.one(f'#choices input[value="{name}"]').click()
        page.one("#picker footer button").click()
    assert not page.one("#compare").is_displayed()
    page.ask("One.")
    assert page.texts(".answer .text") == [BEFORE, AFTER, "Use the form.", BEFORE]
    assert page.texts(".answer h3") == ["Policy", "Set A", "Set B", "Set C"]
    assert sorted(names(body)[0] for body in page.server.asked) == ["brevity", "clarity", "empathy"]
    assert "left the answer as it was" in page.all(".aligned")[2].text
    given = {names(body)[0]: body["metaaligner"].get("answer") for body in page.server.asked}
    assert given == {"empathy": None, "brevity": BEFORE, "clarity": BEFORE}, "the policy is asked once"
    tops = {column.rect["y"] for column in page.all(".answer")}
    assert len(tops) == 1, "the columns stand beside each other"
    [go_on] = [one for one in page.all(".aligned")[1].find_elements(By.TAG_NAME, "button") if "Go on" in one.text]
    go_on.click()
    page.ask("Two.")
    assert page.server.asked[-1]["messages"][1]["content"] == "Use the form."
    page.button("Remove set B").click()
    assert page.texts(".set .name") == ["A", "B"]


def test_sets_that_edited_different_answers_say_so(page: Page) -> None:
    drafts = {"empathy": "One way.", "brevity": "Another way."}
    page.server.reply = lambda body: answer(drafts[names(body)[0]], "Edited.", names(body))
    page.choose("empathy")
    page.button("Compare with another set").click()
    page.one('#choices input[value="brevity"]').click()
    page.one("#picker footer button").click()
    page.ask("One.")
    assert page.one(".policy .text").text == "One way."
    page.one(".aligned details summary").click()
    assert page.one(".aligned .other").text == "Another way."


# --- diff ---


def test_diff_marks_words(page: Page) -> None:
    page.ask("One.")
    page.press("v")
    assert page.texts("ins") == ["I am sorry. ", "use"]
    assert page.texts("del") == ["utilize"]
    assert page.script("return document.querySelector('.diff').textContent") == (
        "I am sorry. Check the tracking page first. Then utilizeuse the form."
    )
    assert (
        re.sub(r"\s+", " ", page.one(".changed").get_property("textContent"))
        == "+4 words added −1 words taken out words"
    )
    assert not page.all(".policy")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "All new."),
        ("All gone.", ""),
        ("a b c d e f g", "g f e d c b a"),
        ("one two three", "one  two\n\nthree"),
        ("Ça va? 日本語の文章です。", "Ça va bien? 日本の文章でした。"),
        ("word " * 3000, "drow " * 3000),
        ("x y " * 400 + "end", "y x " * 400 + "end"),
    ],
)
def test_a_diff_holds_both_texts(page: Page, before: str, after: str) -> None:
    page.press("v")
    page.server.reply = lambda body: [
        *[policy(before), aligned(after), stand.finish(before, ["empathy"]), "data: [DONE]\n\n"]
    ]
    page.ask("One.")
    if not before:
        assert page.one(".text").get_property("textContent").strip() == after
        return
    both = (
        "const p = document.querySelector('p.diff').cloneNode(true); p.querySelectorAll('%s').forEach(n => n.remove());"
    )
    assert page.script(both % "ins" + "return p.textContent") == before
    assert page.script(both % "del" + "return p.textContent") == after


def test_a_diff_grows_with_the_stream(page: Page) -> None:
    go = threading.Event()
    page.server.reply = lambda body: [
        *[policy(BEFORE), aligned("I am sorry. Check the tracking"), go, aligned(AFTER[30:])],
        *[stand.finish(BEFORE, ["empathy"]), "data: [DONE]\n\n"],
    ]
    page.press("v")
    page.type("One." + Keys.ENTER)
    page.until(lambda: page.texts("ins") == ["I am sorry. "])
    assert page.texts(".diff span") == [" page first. Then utilize the form."]  # not come to yet, not taken out
    assert page.texts("del") == []
    go.set()
    page.until(lambda: page.texts("del") == ["utilize"])


# --- what goes wrong ---


def test_an_error_in_the_middle_of_a_stream(page: Page) -> None:
    broken = {"error": {"message": "the model is gone", "type": "server_error", "param": None, "code": "gone"}}
    page.server.reply = lambda body: [policy(BEFORE), aligned("I am"), broken]
    page.ask("One.")
    assert page.one(".wrong").text == "the model is gone"
    assert page.texts(".text") == [BEFORE, "I am"]
    assert page.one("#status").get_property("textContent") == "Failed: the model is gone"
    page.server.reply = lambda body: answer(BEFORE, AFTER, names(body))
    page.button("Try again").click()
    page.until(lambda: page.texts(".aligned .text") == [AFTER])
    assert not page.all(".answer .wrong")
    assert len(page.server.asked[1]["messages"]) == 1, "what failed is no part of the conversation"


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        (
            [{"status": 400, "error": {"message": "5,000 tokens, 2,048 fit", "code": "context_length_exceeded"}}],
            "5,000",
        ),
        ([{"status": 500, "error": {}}], "The server answered 500"),
        ([policy("Check")], "The connection broke before the answer was whole."),
        ([policy("Check"), "data: [DONE]\n\n"], "The connection broke before the answer was whole."),
        ([policy("Check"), "data: {broken\n\n"], "The server sent what is no JSON."),
    ],
)
def test_failures_are_told_in_words(page: Page, steps: list[Step], told: str) -> None:
    page.server.reply = lambda body: steps
    page.ask("One.")
    assert told in page.one(".answer .wrong").text


def test_a_correction_that_failed(page: Page) -> None:
    page.server.reply = lambda body: answer(BEFORE, BEFORE, ["empathy"], aligned=False, failure="it went in circles")
    page.ask("One.")
    assert page.one(".warn").text == "Not edited: it went in circles"
    page.server.reply = lambda body: answer(BEFORE, BEFORE, ["empathy"], aligned=False, preference=-0.25)
    page.ask("Two.")
    assert page.all(".turn")[1].find_element(By.CSS_SELECTOR, ".notes").text.splitlines() == [
        "The policy's answer was kept.",
        "Gate: the aligner holds its edit less likely than the answer (-0.25 per token).",
    ]


def test_a_busy_server_is_asked_again(page: Page) -> None:
    page.server.busy = 1
    page.type("One." + Keys.ENTER)
    page.until(lambda: "Next try in 1 second" in page.one(".aligned .notes").text)
    page.until(lambda: page.texts(".aligned .text") == [AFTER])


def test_stop_leaves_the_server(page: Page) -> None:
    page.server.reply = lambda body: [policy(BEFORE), aligned("I am"), threading.Event()]
    page.type("One." + Keys.ENTER)
    page.until(lambda: page.texts(".aligned .text") == ["I am"])
    page.button("Stop").click()
    page.until(lambda: page.texts(".aligned .state") == ["stopped"])
    assert page.server.left.wait(5), "the request goes on"
    assert page.texts(".text") == [BEFORE, "I am"]
    assert page.button("Send").is_displayed()
    page.type("Two." + Keys.ENTER)
    page.until(lambda: len(page.server.asked) == 2)
    ActionChains(page.browser).send_keys(Keys.ESCAPE).perform()
    page.until(lambda: page.texts(".aligned .state") == ["stopped", "stopped"])


def test_a_key_is_asked_for_and_kept_as_long_as_the_tab(page: Page) -> None:
    page.server.key = "secret"
    page.type("One." + Keys.ENTER)
    page.until(lambda: page.one("#ask-key").is_displayed())
    page.one("#key").send_keys("wrong" + Keys.ENTER)
    page.until(lambda: "refused" in page.one("#key-error").text)
    page.one("#key").send_keys("secret" + Keys.ENTER)
    page.until(lambda: page.texts(".aligned .text") == [AFTER])
    assert page.script("return [sessionStorage['mal.key'], JSON.stringify(localStorage).includes('secret')]") == [
        "secret",
        False,
    ]


def test_a_server_that_is_gone(page: Page, server: StandIn) -> None:
    page.browser.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    try:
        page.ask("One.")
        assert page.one(".answer .wrong").text == "The server cannot be reached. Is mal serve still running?"
    finally:
        online = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", online)


# --- hostile texts ---


@pytest.mark.parametrize("view", ["side", "diff"])
def test_a_hostile_text_stays_text(page: Page, view: str) -> None:
    if view == "diff":
        page.press("v")
    evil = "<img src=/leak7 onerror=hacked=1>"
    page.server.reply = lambda body: [
        *[policy(HOSTILE), aligned(HOSTILE + "end")],
        *[
            stand.finish(HOSTILE, [evil], aligned=False, failure="<script>hacked=1</script>"),
            "data: [DONE]\n\n",
        ],
    ]
    page.ask("<script>window.hacked = 1</script><img src=/leak8.png>")
    for link in page.all(".answer a[href]"):
        assert re.match(r"https?:|mailto:", link.get_dom_attribute("href")), link.get_dom_attribute("href")
        assert link.get_dom_attribute("rel") == "noopener noreferrer nofollow"
    if view == "side":
        assert "https://example.org/a" in [link.get_dom_attribute("href") for link in page.all(".answer a[href]")]
    assert page.all(":is(.answer, .said) :is(script, img, svg, iframe, form, input, link, style, base, object)") == []
    carried = page.script(
        "return [...document.querySelectorAll('.answer :is(.text, .diff) *')]"
        ".flatMap(n => [...n.attributes].map(a => a.name))"
    )
    assert set(carried) <= {"href", "start", "rel", "target", "title", "class", "dir", "role", "tabindex", "aria-label"}
    for shown in ("<script>window.hacked = 1</script>", "onerror=", "![picture](http://127.0.0.1:1/remote.png"):
        assert shown in page.all(".aligned :is(.text, .diff)")[0].text, "what a model wrote is seen as it wrote it"
    time.sleep(0.3)
    assert page.script("return window.hacked") is None
    assert [path for path in page.server.paths if "leak" in path] == []
    assert page.complaints() == [], "the content policy had something to stop"
    page.browser.refresh()
    page.until(lambda: page.all(".turn"))
    assert page.script("return window.hacked") is None


def test_the_content_policy_lets_nothing_else_run(page: Page) -> None:
    page.script(
        "const s = document.createElement('script'); try { s.textContent = 'window.hacked = 1' } catch {}"
        "document.body.append(s); const i = new Image(); i.src = '/leak.png'; document.body.append(i);"
        "try { document.body.insertAdjacentHTML('beforeend', '<b onclick=1>x</b>') } catch { window.refused = true }"
    )
    time.sleep(0.3)
    assert page.script("return [window.hacked, window.refused]") == [None, True]
    assert "/leak.png" not in page.server.paths
    outside = "const done = arguments[0]; fetch('http://127.0.0.1:1/').then(() => done('open'), () => done('shut'))"
    assert page.browser.execute_async_script(outside) == "shut"
    assert any("Content Security Policy" in complaint for complaint in page.complaints())


def test_a_very_long_text(page: Page) -> None:
    long = "unbroken" * 500 + "\n\n" + "- [ ] item with `code`\n" * 2000
    page.server.reply = lambda body: [policy(long), aligned(long), stand.finish(long, []), "data: [DONE]\n\n"]
    page.ask("One.")
    assert page.script("return document.documentElement.scrollWidth <= innerWidth") is True
    assert page.one(".aligned .text").get_property("textContent").count("☐ item") == 2000


# --- history, files ---


def test_history_after_reload(page: Page) -> None:
    page.ask("One.")
    page.button("New conversation").click()
    assert page.one("#empty").is_displayed()
    page.ask("Two.")
    page.browser.refresh()
    page.until(lambda: page.texts(".said p") == ["Two."])
    assert page.one(".aligned .text").text == AFTER
    assert page.texts("#chats .chat span") == ["Two.", "One."]
    page.all("#chats .chat")[1].click()
    assert page.texts(".said p") == ["One."]
    page.button("Delete One.").click()
    assert page.texts("#chats .chat span") == ["Two."]
    page.button("Undo").click()
    assert page.texts("#chats .chat span") == ["Two.", "One."]


def test_a_conversation_deleted_while_it_is_answered_stays_deleted(page: Page) -> None:
    page.server.reply = lambda body: [policy("Check"), threading.Event()]
    page.type("One." + Keys.ENTER)
    page.until(lambda: page.texts(".policy .text") == ["Check"])
    page.button("Delete One.").click()
    page.until(lambda: not page.all("body.running"))
    assert page.stored() == []


def test_a_reload_in_the_middle_keeps_what_was_written(page: Page) -> None:
    page.server.reply = lambda body: [policy(BEFORE), aligned("I am"), threading.Event()]
    page.type("One." + Keys.ENTER)
    page.until(lambda: page.texts(".aligned .text") == ["I am"])
    page.browser.refresh()
    page.until(lambda: page.texts(".aligned .text") == ["I am"])
    assert page.texts(".aligned .state") == ["stopped"]


def test_a_full_store_is_told(page: Page) -> None:
    page.script("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }")
    page.ask("One.")
    assert "storage is full" in page.one("#notice").text
    assert page.one(".aligned .text").text == AFTER


def test_forget_everything(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.ask("One.")
    page.button("Settings").click()
    page.one("#forget").click()
    page.browser.switch_to.alert.accept()
    page.until(lambda: page.all("#model option") and page.one("#empty").is_displayed())
    assert page.stored() == []


def test_out_and_in_again(page: Page, _chrome: tuple[Chrome, Path]) -> None:
    page.choose("empathy")
    page.button("Compare with another set").click()
    page.one('#choices input[value="brevity"]').click()
    page.one("#picker footer button").click()
    page.ask("One parcel.")
    page.ask("Two.")
    file = _chrome[1] / "one-parcel.json"
    file.unlink(missing_ok=True)
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(_chrome[1])})
    page.button("Export").click()
    page.until(file.exists)
    written = json.loads(file.read_text(encoding="utf-8"))
    assert [message["role"] for message in written["messages"]] == ["user", "assistant"] * 2
    assert [turn.content for turn in read_chat(written, "it").turns] == ["One parcel.", AFTER, "Two.", AFTER]
    before = page.stored()
    page.script("localStorage.clear()")
    page.one("#file").send_keys(str(file))
    page.until(lambda: len(page.stored()) == 1)
    [old], [new] = before, page.stored()
    assert {**old, "id": "", "updated": ""} == {**new, "id": "", "updated": ""}
    assert page.texts(".said p") == ["One parcel.", "Two."]
    file.unlink()


@pytest.mark.parametrize(
    ("written", "shown", "told"),
    [
        ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}], ["Hi"], ""),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Parts"}]}]}, ["Parts"], ""),
        ("{broken", [], "not JSON"),
        ({"a": 1}, [], "holds no conversation"),
        ([], [], "holds no message of a user"),
        ([{"role": "assistant", "content": "Ho"}], [], "Message 1 answers no message"),
        ([{"role": "tool", "content": "x"}], [], 'has the role "tool"'),
        ([{"role": "user", "content": 7}], [], "Message 1 has no text"),
        ([None], [], "Message 1 has no text"),
    ],
)
def test_files_of_others(page: Page, tmp_path: Path, written: Any, shown: list[str], told: str) -> None:
    file = tmp_path / "chat.json"
    file.write_text(written if isinstance(written, str) else json.dumps(written), encoding="utf-8")
    page.one("#file").send_keys(str(file))
    page.until(lambda: page.texts(".said p") == shown and told in page.one("#notice").text)
    assert page.complaints() == []


def test_a_hostile_file(page: Page, tmp_path: Path) -> None:
    given = {"content": HOSTILE, "objectives": [7, {"name": HOSTILE}], "stages": {"edit": {"read": HOSTILE}}}
    told = {"chosen": 9, "answers": [{**given, "aligned": True, "preference": "x", "state": "edit", "note": 3}]}
    messages = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": "x", "metaaligner": told}]
    file = tmp_path / "evil.json"
    file.write_text(json.dumps({"messages": messages, "title": HOSTILE, "created": "never"}), encoding="utf-8")
    page.one("#file").send_keys(str(file))
    page.until(lambda: page.all(".turn"))
    time.sleep(0.2)
    assert page.script("return window.hacked") is None
    assert page.complaints() == []
    assert not page.all("body.running")


# --- keyboard, screen reader, colours, phone ---


def test_everything_by_keyboard(page: Page) -> None:
    def keys(*pressed: str) -> None:
        ActionChains(page.browser).send_keys(*pressed).perform()

    page.press("o")
    keys("brev", Keys.ENTER, Keys.ESCAPE)
    page.until(lambda: page.texts(".chip .label") == ["brevity"])
    page.press("m")
    keys("One.", Keys.ENTER)
    page.until(lambda: page.texts(".aligned .text") == [AFTER])
    page.press("v")
    page.until(lambda: page.all("ins"))
    page.press("r")
    page.until(lambda: len(page.server.asked) == 2 and not page.all("body.running"))
    page.press("k")
    assert page.one("#keys").is_displayed()
    assert "Alt\nN" in page.one("#shortcuts").text or "Alt N" in page.one("#shortcuts").text
    keys(Keys.ESCAPE)
    assert not page.one("#keys").is_displayed()
    page.press("n")
    assert page.one("#empty").is_displayed()
    assert page.browser.switch_to.active_element == page.one("#query")
    keys("Line")
    page.press(Keys.ENTER, Keys.SHIFT)
    assert page.one("#query").get_property("value") == "Line\n"


def test_the_order_of_the_tab_key(page: Page) -> None:
    page.choose("empathy")
    page.ask("One.")
    page.script("document.activeElement.blur(); getSelection().removeAllRanges()")
    page.browser.refresh()
    page.until(lambda: page.all(".chip"))
    page.script("document.activeElement.blur(); document.querySelector('.skip').focus()")
    reached = []
    for _ in range(40):
        reached.append(page.browser.switch_to.active_element.accessible_name)
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
        if page.script("return document.activeElement === document.body"):
            break
    wanted = ["To the message field", "Side by side", "Theme: as the system", "Settings", "Keyboard shortcuts"]
    wanted += ["New conversation", "Edit message 1", "Run again", "empathy", "Remove empathy", "Your message", "Send"]
    places = [reached.index(name) for name in wanted]
    assert places == sorted(places), reached
    assert "" not in reached, "everything that can be reached has a name"


def test_dark_by_system_and_by_switch(page: Page) -> None:
    def ground() -> str:
        return page.script("return getComputedStyle(document.body).backgroundColor")

    def system(scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    system("light")
    light = ground()
    system("dark")
    dark = ground()
    assert light != dark
    page.button("Theme: as the system").click()
    assert ground() == light
    system("light")
    page.button("Theme: light").click()
    assert ground() == dark
    page.browser.refresh()
    page.until(lambda: page.all("#model option"))
    assert ground() == dark


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone(page: Page, width: int) -> None:
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.browser.refresh()
    page.until(lambda: page.all("#model option"))
    table = "| a | b |\n|---|---|\n| " + "wide " * 20 + "| " + "x" * 300 + " |\n\n" + "long" * 60
    page.server.reply = lambda body: answer(BEFORE, table, names(body))
    page.choose("empathy", "clarity", "safe for children")
    for _ in range(2):
        page.button("Compare with another set").click()
        page.one('#choices input[value="brevity"]').click()
        assert page.script("return document.documentElement.scrollWidth <= innerWidth")
        page.one("#picker footer button").click()
    page.ask("One " + "long" * 50)
    lefts = {column.rect["x"] for column in page.all(".answer")}
    assert len(lefts) == 1, "the columns stand below each other"
    too_wide = page.script(
        "return [...document.querySelectorAll('body, main, header, form, .turn, .answer, .set')].filter(n => "
        "n.scrollWidth > n.clientWidth + 1 || n.getBoundingClientRect().right > innerWidth + 1).map(n => n.outerHTML)"
    )
    assert too_wide == []
    assert page.one("#main").rect["height"] > 200, "there is room to read"
    page.button("Conversations").click()
    page.until(lambda: page.button("New conversation").rect["x"] >= 0)
    assert page.browser.switch_to.active_element.accessible_name == "New conversation"
    ActionChains(page.browser).send_keys(Keys.ESCAPE).perform()
    page.until(lambda: not page.one("#history").is_displayed())
    assert page.browser.switch_to.active_element.accessible_name == "Conversations"


def test_names_and_roles(page: Page) -> None:
    page.choose("empathy")
    page.ask("One.")
    for element in page.all("button, input:not([hidden]), select, textarea, main, nav, [role], section, dialog"):
        if element.is_displayed() and element.aria_role not in {"none", "generic", "status", "alert"}:
            assert element.accessible_name, element.get_attribute("outerHTML")[:200]
    assert len(page.all("main")) == len(page.all("h1")) == 1
    levels = [int(heading.tag_name[1]) for heading in page.all("h1, #main :is(h2, h3)") if heading.is_displayed()]
    assert levels == [1, 2, 3, 3]
    assert page.script("return document.documentElement.lang") == "en"
    ids = page.script("return [...document.querySelectorAll('[id]')].map(n => n.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, axe: str, scheme: str) -> None:
    def faults() -> list[str]:
        # axe writes no HTML into the page for these rules; its source comes by the driver, past the content policy.
        found = page.browser.execute_async_script(
            f"if (!window.axe) {{ {axe} }}; const done = arguments[0];"
            "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
            ".then(r => done(r.violations.flatMap(v => v.nodes.map(n => `${v.id}: ${n.html.slice(0, 160)}"
            " ${n.failureSummary}`))), e => done([String(e)]))"
        )
        return [str(one) for one in found]

    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    assert faults() == []
    page.choose("empathy")
    page.ask("One.")
    page.server.reply = lambda body: answer(BEFORE, BEFORE, ["empathy"], aligned=False, failure="in circles")
    page.ask("Two.")
    page.server.reply = lambda body: [
        policy("# Title\n\n> quote `code` [link](https://example.org)"),
        {"error": {"message": "no"}},
    ]
    page.ask("Three.")
    assert faults() == []
    page.press("v")
    assert faults() == []
    for key, dialog in (("o", "#picker"), ("k", "#keys")):
        page.press(key)
        assert page.one(dialog).is_displayed()
        assert faults() == []
        ActionChains(page.browser).send_keys(Keys.ESCAPE).perform()


# --- the file itself ---


def test_the_pages_are_what_their_sources_make() -> None:
    path = PAGE.parent.parent.parent / "page" / "build.py"
    spec = importlib.util.spec_from_file_location("page_build", path)
    assert spec and spec.loader
    build = importlib.util.module_from_spec(spec)
    sys.modules["page_build"] = build  # where its dataclass looks for its types
    spec.loader.exec_module(build)
    assert {page.file.parent.name for page in build.PAGES} == {"serve", "evaluation"}
    for page in build.PAGES:
        assert page.file.read_text(encoding="utf-8") == build.build(page), "run `python page/build.py`"


def test_the_page_is_one_file_of_moderate_size() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(text.encode()) < 250_000
    markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1", text, flags=re.DOTALL)
    assert not re.search(r"<(script|img|iframe|link)[^>]+(src|href)=\"(?!data:)", markup)
    assert "unsafe-inline" not in text


# --- with the real server, over small trained models ---


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    for needed in ("starlette", "uvicorn", "pydantic"):
        pytest.importorskip(needed)
    from served import serving as really_serving
    from trained import ADAPTER, POLICY

    from metaaligner_lite.pair import Choice, open_pair

    with open_pair(Choice(POLICY, adapter=ADAPTER, engine={"threads": 1})) as pair, really_serving(pair) as (url, _):
        yield url


def test_the_real_server(page: Page, served: str) -> None:
    page.browser.get(served)
    page.until(lambda: page.all("#model option"))
    page.button("Choose objectives").click()
    offered = page.script("return [...document.querySelectorAll('#choices input')].map(box => box.value)")
    assert {"empathy", "brevity"} <= set(offered)
    page.one('#choices input[value="brevity"]').click()
    page.one("#own-name").send_keys("calm" + Keys.TAB + "The response should be calm." + Keys.ENTER)
    page.one("#picker footer button").click()
    page.button("Compare with another set").click()
    page.one('#choices input[value="empathy"]').click()
    page.one("#picker footer button").click()
    page.type(trained_query() + Keys.ENTER)
    page.until(lambda: page.all(".aligned .counts dd") and not page.all("body.running"), within=60)
    assert not page.all(".answer .wrong")
    drafted, *edited = page.texts(".answer .text")
    assert drafted.strip()
    assert all(text.strip() for text in edited)
    assert page.texts(".aligned .toward li") == ["brevity", "calm", "empathy"]
    assert "read" in page.one(".policy .counts").text
    page.ask("And now?")
    assert len(page.all(".turn")) == 2
    assert page.complaints() == []


def trained_query() -> str:
    from trained import prompts

    query: str = prompts()[0][0]
    return query
