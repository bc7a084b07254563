"""The HTML of `mal eval --html`: what is in the file, and the file in a headless Chromium as a reader has it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import eval_example
import pytest

from metaaligner_lite.errors import FileProblem, UsageError
from metaaligner_lite.evaluation import page as pages
from metaaligner_lite.evaluation.page import check_page, page_of, write_page
from metaaligner_lite.evaluation.report import ALIGNED, ANSWER, GOLDEN, TIDIED, UNALIGNED, Report, record_of

OBJECTIVES = (*eval_example.OBJECTIVES, "clarity", "safe for children")
HOSTILE = (
    "</script><script>window.hacked = 1</script> <!-- <script> --> ]]> <img src=x onerror='window.hacked = 2'>\n"
    "<svg/onload=window.hacked=3> [click](javascript:window.hacked=4) &lt;b&gt; \u2028 \ud800 \u202e esrever\n"
    '"}],"report":null}</script></title></textarea><iframe src="/leak"></iframe><base href="http://127.0.0.1:1/">'
)


def example() -> Report:
    """The small report, with four objectives: a web wants three."""
    report = eval_example.report()
    of = dict(zip(OBJECTIVES, [*eval_example.OBJECTIVES] * 2, strict=True))
    return replace(
        report,
        requests=("brevity", "brevity,politeness,clarity,safe for children"),
        objectives={name: f"The response should have {name}." for name in OBJECTIVES},
        cells=tuple(
            replace(cell, objective=name) for cell in report.cells for name in OBJECTIVES if of[name] == cell.objective
        ),
        gains=tuple(
            replace(gain, objective=name) for gain in report.gains for name in OBJECTIVES if of[name] == gain.objective
        ),
    )


def data_of(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data: dict[str, Any] = json.loads(found)
    return data


# --- the file ---


def test_the_file_holds_the_whole_report() -> None:
    report = eval_example.report()
    single = replace(report.cells[0], request="brevity")
    text = page_of(replace(report, cells=(*report.cells, single)), eval_example.verdicts(), eval_example.rows())
    data = data_of(text)
    assert record_of(Report, data["report"]) == report  # all but the cells of single requests
    assert data["examples"]["of"] == len(data["examples"]["rows"]) == 8
    first = data["examples"]["rows"][0]
    assert first["texts"] == {
        UNALIGNED: "A long answer, number 0.",
        TIDIED: "A long answer, number 0.",
        ALIGNED: "Answer 0.",
    }
    judge, objective, variant, reference, outcome, identical, orders = first["verdicts"][0]
    assert (data["examples"]["judges"][judge], data["examples"]["objectives"][objective]) == ("tiny.gguf", "brevity")
    assert (report.variants[variant].name, reference, outcome, identical) == (ALIGNED, 1, 0, 0)
    assert orders[0] == [1, "first", "1: 0.8, 2: 0.1, 0: 0.1"]


def test_one_file_that_loads_nothing() -> None:
    text = page_of(example(), eval_example.verdicts(), eval_example.rows())
    assert len(text.encode()) < 400_000
    markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1", text, flags=re.DOTALL)
    assert not re.search(r"<(script|img|iframe|link)[^>]+(src|href)=\"(?!data:)", markup)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "connect-src" not in policy
    assert "trusted-types 'none'" in policy


def test_hostile_texts_stay_in_their_block() -> None:
    report, verdicts = eval_example.report(), eval_example.verdicts()
    rows = [replace(row, query=HOSTILE, texts=dict.fromkeys(row.texts, HOSTILE)) for row in eval_example.rows()]
    bad = page_of(replace(report, notes=(HOSTILE,)), verdicts, rows)
    good = page_of(report, verdicts, eval_example.rows())
    for tag in ("<script", "</script", "<!--", "<iframe", "<base", "<img"):
        assert bad.count(tag) == good.count(tag), tag
    bad.encode()  # half a surrogate pair, too
    assert data_of(bad)["examples"]["rows"][0]["query"] == HOSTILE
    assert data_of(bad)["report"]["notes"] == [HOSTILE]


def test_of_many_rows_some_are_shown_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    one = eval_example.rows()[0]
    rows = [replace(one, key=f"{i:04x}", place=f"line {i}") for i in range(1000)]
    held = data_of(page_of(eval_example.report(), [], rows))["examples"]
    assert (held["of"], len(held["rows"]), held["cut"]) == (1000, pages.MOST_ROWS, 0)
    places = [int(row["place"].removeprefix("line ")) for row in held["rows"]]
    assert places == sorted(places)
    assert 350 < sum(places) / len(places) < 650  # drawn from all of the file, not its beginning
    monkeypatch.setattr(pages, "MOST_LETTERS", 5000)
    few = data_of(page_of(eval_example.report(), [], rows))["examples"]
    assert 3 < len(few["rows"]) < 20
    monkeypatch.setattr(pages, "MOST_LETTERS", 1)
    assert len(data_of(page_of(eval_example.report(), [], rows))["examples"]["rows"]) == 1


def test_a_very_long_text_is_cut_and_says_so() -> None:
    rows = [replace(row, golden="x" * 25_000) for row in eval_example.rows()[:2]]
    held = data_of(page_of(eval_example.report(), [], rows))["examples"]
    assert held["cut"] == 2
    assert held["rows"][0]["golden"] == "x" * 20_000 + " [cut here: 20,000 of 25,000 letters]"


@pytest.mark.parametrize(
    ("name", "there", "error", "told"),
    [
        ("report.txt", None, UsageError, "ends in .html"),
        ("nowhere/report.html", None, FileProblem, "no folder"),
        ("report.html", "<html>a page of mine</html>", FileProblem, "no report"),
    ],
)
def test_where_no_page_can_go(tmp_path: Path, name: str, there: str | None, error: type[Exception], told: str) -> None:
    path = tmp_path / name
    if there:
        path.write_text(there)
    with pytest.raises(error, match=told):
        check_page(path, force=False)


def test_a_report_is_replaced_and_others_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    check_page(path, force=False)
    write_page(path, eval_example.report(), [], [])
    check_page(path, force=False)
    path.write_text("mine")
    check_page(path, force=True)


# --- in a browser ---

pytest.importorskip("selenium", reason="needs selenium (`pip install --group dev`)")

from selenium.webdriver import ActionChains, Chrome  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402


class Reader:
    """A report as its reader has it."""

    def __init__(self, browser: Chrome, folder: Path) -> None:
        self.browser, self.folder = browser, folder

    def open(self, report: Report, verdicts: Any = None, rows: Any = None) -> Reader:
        path = self.folder / "report.html"
        rows = eval_example.rows() if rows is None else rows
        write_page(path, report, eval_example.verdicts() if verdicts is None else verdicts, rows)
        self.browser.get(path.as_uri())
        return self

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.all(selector)]

    def rows(self, caption: str) -> list[list[str]]:
        """The cells of the table of this caption."""
        found = self.script(
            "return [...document.querySelectorAll('table')].filter(t => t.caption.textContent.startsWith(arguments[0]))"
            ".map(t => [...t.tBodies[0].rows].map(r => [...r.cells].map(c => c.textContent)))",
            caption,
        )
        assert len(found) == 1, f"{len(found)} tables are called {caption}"
        cells: list[list[str]] = found[0]
        return cells

    def choose(self, name: str, value: str) -> None:
        Select(self.one(f"#{name}")).select_by_value(value)

    def until(self, true: Any) -> None:
        WebDriverWait(self.browser, 30, 0.05).until(lambda _: true())

    def script(self, text: str, *arguments: Any) -> Any:
        return self.browser.execute_script(text, *arguments)

    def screen(self, width: int) -> None:
        size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 600}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def system(self, scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser")]


@pytest.fixture
def reader(_chrome: tuple[Chrome, Path], tmp_path: Path) -> Iterator[Reader]:
    browser, _ = _chrome
    browser.get_log("browser")
    found = Reader(browser, tmp_path)
    yield found
    assert found.complaints() == [], "the browser has nothing to complain of"
    browser.execute_script("try { localStorage.clear() } catch {}")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.get("about:blank")


def test_known_numbers_are_read(reader: Reader) -> None:
    reader.open(example())
    assert reader.one("h1").text == "Does it align?"
    assert "8 rows of Claude-3, Vicuna-13B, from results.jsonl" in reader.one("#what").text
    assert reader.texts("#notes li") == ["the judge tiny.gguf is at chance on llmbar"]
    numbers = reader.rows("By rules, all 2 policies")
    assert numbers[0] == [
        *("brevity", "aligned", "2/1/1", "+25.0 [−5, +55]", "1.000", "62 [52, 72]"),
        *("2/1/1", "+25.0 [−5, +55]", "+50.0", "0.080"),
    ]
    assert len(numbers) == 3 * len(OBJECTIVES)  # three texts
    assert "of 4 objectives asked for the edits do better than the answers on none" in reader.one("#verdict").text
    assert reader.rows("tiny.gguf against people") == [
        ["llmbar", "60", "53 [44, 62]", "0.05", "50 %", "43 %", "3 %", "0", "0", "at chance"]
    ]
    assert reader.rows("Position: tiny.gguf") == [["pairs", "56 % (20)", "33 % (12)", "6 % (2)", "6 % (2)"]]
    told = reader.one("#judge-list").text
    assert "80 needed: 60 asked in this run, 20 kept from before; 12.5 s" in told
    assert "8 of 8 the same" in told
    assert "tiny.gguf 0123456789abcdef" in told
    assert "is at chance on llmbar: what it says of these texts says little" in told
    quality = reader.rows("What the texts of all 2 policies are like")
    assert quality[0][:5] == [ALIGNED, "4", "0 %", "90 %", "×0.80"]
    assert "Left out: prompt only (no model is installed)" in reader.one("#quality-tables").text
    made = reader.one("#made-list").text
    for part in ("metaaligner-lite 0, mal eval", "2026-11-27 05:00:00 UTC", "78 of 80 pairs (97.5 %)", "00ff"):
        assert part in made
    assert reader.rows("What was read") == [["results.jsonl", "00ff", "9", "8", "1: no text was written"]]


def test_the_tax_has_sign_size_and_a_mark(reader: Reader) -> None:
    reader.open(example())
    cells = reader.rows("By rules, all rows: requested (rows) against measured (columns)")
    assert [row[0] for row in cells] == ["brevity", "brevity, politeness"]
    assert cells[0][1:] == ["+25.0 *, excludes 0, asked for[+5, +45]", "−25.0 *, excludes 0[−45, −5]"]
    assert [cell.get_attribute("data-tone") for cell in reader.all("#matrix td")] == ["p3", "n3", "p3", "p3"]
    up, down = (cell.value_of_css_property("background-color") for cell in reader.all("#matrix td")[:2])
    assert up != down


def test_charts_are_drawn_and_tell_their_numbers(reader: Reader) -> None:
    reader.open(example())
    canvases = reader.all("canvas")
    assert len(canvases) == 4  # two of bars, a web for each policy
    for canvas in canvases:
        inked = "const c = arguments[0], d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        assert reader.script(f"{inked} return d.some(v => v)", canvas)
        assert canvas.get_attribute("role") == "img"
    told = canvases[0].get_attribute("aria-label")
    assert told.startswith(
        "Bars. Against the policy’s answer, in points, with 95 % intervals. brevity: aligned +25.0 [−5, +55]"
    )
    assert "Radar of Claude-3" in canvases[2].get_attribute("aria-label")
    values = "return Chart.getChart(arguments[0]).data.datasets.map(d => [d.label, d.data[0]])"
    assert reader.script(values, canvases[0]) == [[ALIGNED, 25], [TIDIED, -75]]
    assert reader.script(values, canvases[2]) == [[ALIGNED, 12.5], [UNALIGNED, 37.5]]
    reader.all("#texts input")[1].click()
    assert [name for name, _ in reader.script(values, reader.all("canvas")[0])] == [ALIGNED]


def test_a_policy_and_what_was_not_asked_for(reader: Reader) -> None:
    report = replace(example(), requests=("brevity", "politeness"))
    reader.open(report)
    assert {row[0] for row in reader.rows("By rules, all 2 policies")} == {"brevity", "politeness"}
    assert "A radar needs three objectives; rules judged 2 that was asked for" in reader.one("#radars-told").text
    reader.one("#others").click()
    assert {row[0] for row in reader.rows("By rules, all 2 policies")} == set(OBJECTIVES)
    assert len(reader.all("#radar-grid canvas")) == 2
    reader.choose("policy", "Vicuna-13B")
    assert reader.rows("By rules, Vicuna-13B")[0][2] == "1/1/2"
    assert reader.rows("What the texts of Vicuna-13B are like")[0][0] == ALIGNED


def test_examples_are_searched_and_filtered(reader: Reader) -> None:
    reader.open(example())
    assert reader.one("#found").text == "8 of 8 examples match."
    assert "All 8 rows are here." in reader.one("#examples-told").text
    reader.one("#search").send_keys("NUMBER golden 5")
    reader.until(lambda: reader.one("#found").text == "1 of 8 examples matches.")
    assert reader.texts(".example h3") == ["Question 1?"]
    reader.one("#filters button").click()
    reader.until(lambda: reader.one("#found").text == "8 of 8 examples match.")
    reader.choose("by-policy", "Claude-3")
    assert reader.one("#found").text == "4 of 8 examples match."
    reader.choose("by-objective", "brevity")
    reader.choose("by-outcome", "win")
    assert reader.texts(".example h3") == ["Question 0?", "Question 0?"]
    assert (
        reader.texts(".chip")
        == ["brevity: won against golden (tiny.gguf)", "brevity: won against the answer (tiny.gguf)"] * 2
    )
    reader.choose("by-reference", GOLDEN)
    assert reader.texts(".chip") == ["brevity: won against golden (tiny.gguf)"] * 2
    reader.choose("by-judge", "rules")
    assert reader.one("#found").text == "0 of 8 examples match."
    assert not reader.all(".example")


def test_an_example_side_by_side(reader: Reader) -> None:
    reader.open(example())
    first = reader.one(".example")
    answer, edit = first.find_elements(By.CSS_SELECTOR, ".pair .diff")
    assert (answer.text, edit.text) == ("A long answer, number 0.", "Answer 0.")
    assert [one.text for one in answer.find_elements(By.TAG_NAME, "del")] == ["A long answer, number"]
    assert [one.text for one in edit.find_elements(By.TAG_NAME, "ins")] == ["Answer"]
    golden, verdicts = first.find_elements(By.CSS_SELECTOR, "details > summary")
    golden.click()
    assert first.find_element(By.CSS_SELECTOR, ".words").text == "Golden 0."
    assert verdicts.text == "All 4 verdicts on this text"
    verdicts.click()
    reader.until(lambda: reader.all(".example table"))
    assert reader.rows("Verdicts on line 1")[0] == [
        *("brevity", GOLDEN, "win", "tiny.gguf"),
        "text first: first (1: 0.8, 2: 0.1, 0: 0.1); text second: second",
    ]
    reader.choose("by-text", TIDIED)
    assert reader.one(".pair .edit").text.startswith(TIDIED)


def test_hostile_texts_are_letters(reader: Reader) -> None:
    text = HOSTILE.replace("\ud800", "")  # which no browser can show
    report = example()
    judge = replace(report.judges[0], name=text)
    cells = [
        replace(cell, judge=text, policy=text if cell.policy == "Claude-3" else cell.policy) for cell in report.cells
    ]
    rows = [
        replace(row, policy=text, query=text, golden=text, texts={**row.texts, ALIGNED: text}, place=text)
        for row in eval_example.rows()
    ]
    bad = replace(
        report,
        judges=(judge, report.judges[1]),
        cells=tuple(cells),
        policies=(text, "Vicuna-13B"),
        notes=(text,),
        settings={text: text},
    )
    reader.open(bad, rows=rows)
    for details in reader.all("#found-list details, #made details"):
        reader.script("arguments[0].open = true", details)
    assert reader.script("return window.hacked") is None
    assert reader.script("return document.querySelector('#found-list .words').textContent") == text
    assert reader.script("return document.querySelector('#notes li').textContent") == text
    assert not reader.all("iframe, base, img, script[src]")
    reader.screen(360)
    assert reader.script("return document.documentElement.scrollWidth <= innerWidth")


def test_the_content_policy_lets_nothing_else_run(reader: Reader) -> None:
    reader.open(example())
    reader.script(
        "const s = document.createElement('script'); try { s.textContent = 'window.hacked = 1' } catch {}"
        "document.body.append(s);"
        "try { document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = 2\">') } catch {}"
        "try { fetch('https://example.org/').catch(() => {}) } catch {}"
    )
    reader.until(lambda: len(reader.complaints()) > 0)
    time.sleep(0.2)
    reader.complaints()
    assert reader.script("return window.hacked") is None


def test_nothing_is_loaded(reader: Reader) -> None:
    reader.open(example())
    assert reader.script("return performance.getEntriesByType('resource').map(e => e.name)") == []


def test_dark_by_system_and_by_switch(reader: Reader) -> None:
    def seen() -> tuple[str, str]:
        drawn = "return Chart.getChart(document.querySelector('canvas')).data.datasets[0].backgroundColor"
        ground = reader.script("return getComputedStyle(document.body).backgroundColor")
        return ground, reader.script(drawn)

    reader.system("light")
    reader.open(example())
    light = seen()
    reader.system("dark")
    reader.until(lambda: seen()[1] != light[1])
    dark = seen()
    assert dark[0] != light[0]
    switch = reader.one("#theme")
    assert switch.accessible_name == "Theme: as the system"
    switch.click()
    assert seen() == light
    switch.click()
    assert seen() == dark
    assert switch.accessible_name == "Theme: dark"
    reader.system("light")
    reader.browser.refresh()
    assert seen() == dark


@pytest.mark.parametrize("width", [320, 360])
def test_a_phone(reader: Reader, width: int) -> None:
    reader.screen(width)
    report = example()
    name = "Llama-3-" + "long" * 30
    rows = [
        replace(row, query="Where " + "x" * 400, texts={**row.texts, ALIGNED: "y" * 3000})
        for row in eval_example.rows()
    ]
    cells = [replace(cell, policy=name if cell.policy == "Claude-3" else cell.policy) for cell in report.cells]
    reader.open(replace(report, policies=(name, "Vicuna-13B"), cells=tuple(cells)), rows=rows)
    reader.one("#others").click()
    for details in reader.all("details"):
        reader.script("arguments[0].open = true", details)
    assert reader.script("return document.documentElement.scrollWidth <= innerWidth")
    too_wide = reader.script(
        "return [...document.querySelectorAll('main, section, .frame, figure, canvas, .example, form, select, p, dl')]"
        ".filter(n => n.getBoundingClientRect().right > innerWidth + 1).map(n => n.outerHTML.slice(0, 200))"
    )
    assert too_wide == []
    lefts = {column.rect["x"] for column in reader.all(".pair > div")}
    assert len(lefts) == 1, "the texts stand below each other"
    assert all(canvas.rect["width"] > 250 for canvas in reader.all("canvas"))


def test_by_keyboard(reader: Reader) -> None:
    rows = [replace(row, key=f"{i}{row.key}") for i in range(3) for row in eval_example.rows()]
    reader.open(example(), rows=rows)
    reached: list[str] = []
    for _ in range(120):
        ActionChains(reader.browser).send_keys(Keys.TAB).perform()
        if reader.script("return document.activeElement === document.body"):
            break
        reached.append(reader.browser.switch_to.active_element.accessible_name)
    assert "" not in reached, "everything that can be reached has a name"
    wanted = [
        "To the results",
        "Theme: as the system",
        "By objective",
        "Judge",
        "Policy",
        "what was not asked for, too",
    ]
    wanted += ["aligned", "By rules, all 2 policies: who won against whom", "Search", "Outcome", "Show 10 more of 24"]
    places = [reached.index(name) for name in wanted]
    assert places == sorted(places), reached
    button = reader.one("#more")
    button.send_keys(Keys.ENTER)
    assert len(reader.all(".example")) == 20
    focused = reader.browser.switch_to.active_element
    assert focused.tag_name == "h3"  # the first of the new ones
    reader.one("#search").send_keys("number 7")
    reader.until(lambda: len(reader.all(".example")) == 3)
    reader.one("#search").send_keys(Keys.ENTER)
    assert len(reader.all(".example")) == 3


def test_tables_and_headings(reader: Reader) -> None:
    reader.open(example())
    for table in reader.all("table"):
        assert table.find_elements(By.TAG_NAME, "caption")
    assert (
        reader.script("return document.querySelectorAll('thead th:not([scope=col]), tbody th:not([scope=row])').length")
        == 0
    )
    assert reader.script("return [...document.querySelectorAll('tbody tr')].every(r => r.cells[0].tagName === 'TH')")
    assert len(reader.all("main")) == len(reader.all("h1")) == 1
    assert reader.script("return document.documentElement.lang") == "en"
    ids = reader.script("return [...document.querySelectorAll('[id]')].map(n => n.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(reader: Reader, axe: str, scheme: str) -> None:
    reader.system(scheme)
    reader.open(example())
    reader.one("#others").click()
    for details in reader.all("details"):
        reader.script("arguments[0].open = true", details)
    reader.browser.set_script_timeout(180)  # on a busy machine
    found = reader.browser.execute_async_script(
        f"if (!window.axe) {{ {axe} }}; const done = arguments[0];"
        "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
        ".then(r => done(r.violations.flatMap(v => v.nodes.map(n => `${v.id}: ${n.html.slice(0, 160)}"
        " ${n.failureSummary}`))), e => done([String(e)]))"
    )
    assert found == []


def test_people_votes_alone(reader: Reader) -> None:
    report = eval_example.report()
    nothing: dict[str, Any] = dict.fromkeys(
        ("sources", "policies", "requests", "variants", "left_out", "cells", "gains", "tax", "quality"), ()
    )
    reader.open(replace(report, rows=0, objectives={}, judges=report.judges[1:], **nothing), [], [])
    assert reader.one("h1").text == "How far to trust the judges"
    assert reader.rows("tiny.gguf against people")[0][0] == "llmbar"
    shown = [section.get_attribute("id") for section in reader.all("main section") if section.is_displayed()]
    assert shown == ["first", "judges", "made"]


def test_without_golden_answers(reader: Reader) -> None:
    report = example()
    cells = tuple(cell for cell in report.cells if cell.reference == ANSWER)
    rows = [replace(row, golden=None) for row in eval_example.rows()]
    reader.open(replace(report, cells=cells, gains=()), rows=rows)
    assert len(reader.all("#bars canvas")) == 1
    names = "return Chart.getChart(document.querySelector('#radar-grid canvas')).data.datasets.map(d => d.label)"
    assert reader.script(names) == [ALIGNED, "the answer itself"]
    assert "50 is as good as the answer" in reader.one("#radars-told").text
    assert reader.texts(".example details > summary") == ["All 4 verdicts on this text"] * 8


def test_ten_thousand_verdicts(reader: Reader) -> None:
    one, said = eval_example.rows()[0], eval_example.verdicts()[:4]
    texts = {**one.texts, ALIGNED: "A better answer. " * 40, UNALIGNED: "A worse answer. " * 60}
    rows = [replace(one, key=f"{i:04x}", place=f"line {i}", texts=texts) for i in range(2500)]
    verdicts = [replace(verdict, row=row.key) for row in rows for verdict in said]
    assert len(verdicts) == 10_000
    reader.open(replace(example(), rows=2500), verdicts, rows)
    assert "Here are 400 of 2,500 rows, drawn at random" in reader.one("#examples-told").text
    assert "example.rows.jsonl" in reader.one("#examples-told").text
    assert (reader.folder / "report.html").stat().st_size < 8_000_000
    assert len(reader.all(".example")) == 10
    reader.one("#search").send_keys("worse")
    reader.until(lambda: reader.one("#found").text == "400 of 400 examples match.")
    navigation = "const n = performance.getEntriesByType('navigation')[0]; return n.domComplete - n.responseEnd"
    assert reader.script(navigation) < 20_000  # milliseconds, on a busy machine
