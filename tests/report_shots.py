"""Pictures of a report in each of its states, to be looked at: `python tests/report_shots.py REPORT.html FOLDER`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from page_stand import open_browser
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select


def take(report: Path, folder: Path) -> None:
    """Walks through the report and leaves a picture of each state in `folder`."""
    with tempfile.TemporaryDirectory() as scratch:
        browser = open_browser(Path(scratch))
        try:
            browser.set_window_size(1280, 860)
            browser.get(report.resolve().as_uri())
            _walk(browser, folder)
            print(*(entry["message"] for entry in browser.get_log("browser")), sep="\n")
        finally:
            browser.quit()


def _walk(browser: Chrome, folder: Path) -> None:
    def screen(width: int, height: int, mobile: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1 + mobile, "mobile": mobile}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        time.sleep(0.5)

    def parts(name: str, width: int, mobile: bool = False) -> None:
        """The whole page, a screen at a time."""
        screen(width, 1100, mobile)
        whole = browser.execute_script("return document.documentElement.scrollHeight")
        for i in range(0, min(9, -(-whole // 1000))):
            browser.execute_script(f"scrollTo(0, {1000 * i})")
            time.sleep(0.3)
            browser.save_screenshot(str(folder / f"{name}-{i}.png"))
        browser.execute_script("scrollTo(0, 0)")

    def choose(name: str, value: str) -> None:
        Select(browser.find_element(By.ID, name)).select_by_value(value)

    def theme() -> None:
        browser.execute_script("document.getElementById('theme').click()")

    parts("light", 1280)
    theme()
    theme()
    parts("dark", 1280)
    parts("phone-dark", 360, mobile=True)
    theme()
    parts("phone", 360, mobile=True)
    screen(1280, 1100)
    choose("by-outcome", "lose")
    browser.find_element(By.ID, "search").send_keys("shop date")
    browser.find_element(By.ID, "others").click()
    time.sleep(0.5)
    browser.find_element(By.CSS_SELECTOR, ".example details:last-child summary").click()
    browser.execute_script("document.getElementById('examples').scrollIntoView()")
    time.sleep(0.5)
    browser.save_screenshot(str(folder / "filtered.png"))
    browser.execute_script("document.getElementById('radars').scrollIntoView()")
    time.sleep(0.5)
    browser.save_screenshot(str(folder / "others.png"))


if __name__ == "__main__":
    target = Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    take(Path(sys.argv[1]), target)
