"""Pictures of the page in each of its states, to be looked at: `python tests/page_shots.py FOLDER`."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from page_stand import Step, aligned, answer, names, open_browser, policy, serving
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

PARCEL = "My parcel is a week late and nobody answers my emails."
DRAFT = (
    "Check the tracking page first. If it has not moved for three days, utilize the contact form of the carrier:\n\n"
    "1. Open **Help**, then *Missing parcels*.\n2. Give the number that begins with `RX`.\n\n"
    "Ask the shop for a refund if nothing happens by Friday."
)
EDITS = {
    "empathy": "I'm sorry that your parcel is so late; being left without an answer is frustrating. "
    + DRAFT.replace("utilize", "use"),
    "brevity": "Check the tracking page. If it has not moved for three days, write to the carrier: open **Help**, then "
    "*Missing parcels*. Ask the shop for a refund by Friday.",
    "calm": DRAFT.replace("Check", "Take a breath, then check").replace("utilize", "use"),
}


def reply(body: dict[str, Any]) -> list[Step]:
    query = body["messages"][-1]["content"]
    edit = EDITS.get(names(body)[0], EDITS["empathy"])
    if "error" in query:
        broken = {"error": {"message": "the model file is gone from the disk", "type": "server_error", "code": "gone"}}
        return [policy(DRAFT), aligned(edit[:90]), broken]
    if "What now" in query:
        return [policy(DRAFT), aligned(edit[:150]), HOLD]
    if "keep" in query:
        return answer(DRAFT, DRAFT, names(body), aligned=False, failure="the edit went round in circles")
    return answer(DRAFT, edit, names(body))


HOLD = threading.Event()


def take(folder: Path) -> None:
    """Walks through the page and leaves a picture of each state in `folder`."""
    with serving(reply) as stand, tempfile.TemporaryDirectory() as scratch:
        browser = open_browser(Path(scratch))
        try:
            browser.set_window_size(1280, 860)
            browser.get(stand.url)
            _walk(browser, folder)
        finally:
            HOLD.set()
            browser.quit()


def _walk(browser: Chrome, folder: Path) -> None:
    def shot(name: str) -> None:
        time.sleep(0.5)
        browser.save_screenshot(str(folder / f"{name}.png"))

    def click(selector: str) -> None:
        browser.find_element(By.CSS_SELECTOR, selector).click()

    def ask(text: str, wait: bool = True) -> None:
        browser.find_element(By.ID, "query").send_keys(text + Keys.ENTER)
        while wait and browser.find_elements(By.CSS_SELECTOR, "body.running"):
            time.sleep(0.1)

    def choose(*wanted: str) -> None:
        for name in wanted:
            click(f'#choices input[value="{name}"]')

    def phone(width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    time.sleep(0.5)
    shot("empty")
    click(".add")
    choose("empathy", "clarity")
    browser.find_element(By.ID, "own-name").send_keys("calm")
    browser.find_element(By.ID, "own-sentence").send_keys("The response should be calm and free of exclamation marks.")
    shot("picker")
    click("#own button")
    choose("calm")
    click("#picker footer button")
    ask("My parcel is a week late. What now?", wait=False)
    while not any(body.text for body in browser.find_elements(By.CSS_SELECTOR, ".aligned .text")):
        time.sleep(0.1)
    shot("streaming")
    click("[value=diff] + span")
    shot("streaming-diff")
    click("#stop")
    click("[value=side] + span")
    click("#new")
    ask(PARCEL)
    shot("side")
    click("[value=diff] + span")
    shot("diff")
    click("#theme")
    click("#theme")
    shot("dark-diff")
    click("[value=side] + span")
    shot("dark")
    phone(390, 844)
    shot("phone-dark")
    click("#theme")
    browser.execute_script("document.getElementById('theme').click()")
    shot("phone")
    click("#menu")
    shot("phone-history")
    browser.find_element(By.ID, "new").send_keys(Keys.ESCAPE)
    click(".add")
    shot("phone-picker")
    click("#picker footer button")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    click("#new")
    click("#compare")
    choose("brevity")
    click("#picker footer button")
    click("#compare")
    choose("calm")
    click("#picker footer button")
    ask(PARCEL)
    shot("sets")
    click("[value=diff] + span")
    shot("sets-diff")
    click("[value=side] + span")
    click("#new")
    click("[aria-label='Remove set C']")
    click("[aria-label='Remove set B']")
    ask("What of an error in the middle?")
    shot("error")
    click("#new")
    ask("And if it is to keep the answer?")
    shot("kept")
    click("#open-settings")
    shot("settings")
    click("#settings [data-close]")
    click("#open-keys")
    shot("keys")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    take(target)
