"""The report in a real browser: headless Chromium driven by clicks and keys, without a network."""

import dataclasses
import shutil
import time

import numpy as np
import pytest

from handmade import ALONE, averaging, decaying, market_run, ring_run, with_history
from thalweg.observe import History, Ledger, Outcome, Result, Table, write_report

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1200,1600",
)  # fmt: skip
NASTY = 'Søren </script ><b onclick="x">&amp; ‖x‖'

pytestmark = pytest.mark.skipif(not (shutil.which(CHROMIUM) and shutil.which(DRIVER)), reason=f"needs {CHROMIUM} and {DRIVER}")


def report_run(n: int, rounds: int = 40):
    """Averaging on a ring from random values; agent 0 has a nasty name, the others send more and more."""
    sent = Ledger(np.arange(n) + 2 * rounds, 8, 16, 0, 0.1, 0.2)
    return ring_run(averaging(n, rounds), names=(NASTY, *(f"agent {i}" for i in range(1, n))), ledger=sent)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the package selenium")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def show(browser, tmp_path):
    """Opens the report of a run; afterwards the console must be empty and nothing may have been loaded."""

    def open_report(run: Result, tables=()):
        path = write_report(run, tmp_path / "run.html", tables)
        browser.get(path.as_uri())
        return browser

    yield open_report
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)") == []


def fills(browser) -> list[str]:
    return browser.execute_script("return [...document.querySelectorAll('circle.agent')].map(c => c.getAttribute('fill'))")


def one(browser, selector: str):
    return browser.find_element("css selector", selector)


def choose(browser, name: str, value: str) -> None:
    one(browser, f"input[name={name}][value={value}]").click()


def test_slider_moves_the_colours(show):
    browser = show(report_run(6))
    slider, keys = one(browser, "#record"), _keys()
    choose(browser, "colour", "disagreement")
    last = fills(browser)
    slider.send_keys(keys.HOME)
    first = fills(browser)
    assert len(first) == 6
    assert first != last
    assert one(browser, "output").text == slider.get_attribute("aria-valuetext") == "round 0"
    slider.send_keys(keys.ARROW_RIGHT)
    assert one(browser, "output").text == "round 1"
    assert fills(browser) != first
    slider.send_keys(keys.END)
    assert fills(browser) == last


def test_colours_are_viridis_on_a_log_scale_over_all_rounds(show):
    colormaps = pytest.importorskip("matplotlib").colormaps
    run = report_run(6)
    browser = show(run)
    choose(browser, "colour", "disagreement")
    one(browser, "#record").send_keys(_keys().HOME)
    values = np.log10(run.history["disagreement"].astype(np.float32))
    unit = (values[0] - values.min()) / np.ptp(values)
    seen = np.array([[int(c) for c in fill[4:-1].split(",")] for fill in fills(browser)])
    np.testing.assert_allclose(seen, 255 * colormaps["viridis"](unit)[:, :3], atol=8)


def test_colour_toggle(show):
    browser = show(report_run(6))
    by_loss = fills(browser)
    assert "local loss" in one(browser, ".ramp").text
    choose(browser, "colour", "disagreement")
    assert fills(browser) != by_loss
    assert "log scale" in one(browser, ".ramp").text
    choose(browser, "colour", "loss")
    assert fills(browser) == by_loss


def test_play_runs_and_pauses(show):
    browser = show(report_run(6, 200))
    play, slider = one(browser, ".play"), one(browser, "#record")
    play.click()
    assert "Pause" in play.text
    _until(lambda: 0 < int(slider.get_property("value")) < 200)
    play.click()
    stopped = slider.get_property("value")
    assert "Play" in play.text
    assert int(stopped) < 200
    time.sleep(0.2)
    assert slider.get_property("value") == stopped


def test_axis_toggle(show):
    browser = show(report_run(6))
    labels = lambda: [e.text for e in browser.find_elements("css selector", ".chart > div > svg")]
    assert len(labels()) == 2
    assert all("round" in label for label in labels())
    choose(browser, "axis", "bytes")
    assert all("payload sent by all agents (KiB)" in label for label in labels())
    choose(browser, "axis", "round")
    assert not any("payload" in label for label in labels())


def test_tables_sort(show):
    table = Table("AUC", ("site", "auc"), [("b", 0.5), ("c", None), ("a", 0.75), ("d", float("nan"))])
    browser = show(report_run(12), (table,))
    column = lambda: [c.text for c in browser.find_elements("css selector", "section:first-of-type tbody th")]
    auc = browser.find_elements("css selector", "section:first-of-type thead button")[1]
    auc.click()
    assert column()[:2] == ["b", "a"]
    auc.click()
    assert column()[:2] == ["a", "b"]
    assert sorted(column()[2:]) == ["c", "d"]
    assert browser.find_elements("css selector", "th[aria-sort=descending]")
    browser.find_elements("css selector", "#agents thead button")[0].click()
    names = [cell.text for cell in browser.find_elements("css selector", "#agents tbody th")]
    assert names == [*(f"agent {i}" for i in range(1, 12)), NASTY]  # agent 2 before agent 10


def test_tooltips_say_name_and_values(show):
    from selenium.webdriver.common.action_chains import ActionChains

    run = report_run(6)
    browser = show(run)
    ActionChains(browser).move_to_element(one(browser, "circle.agent")).perform()
    tip = one(browser, "#tip").text
    assert NASTY in tip
    assert "local loss" in tip
    assert "disagreement" in tip
    curves = one(browser, ".chart > div > svg")
    ActionChains(browser).move_to_element_with_offset(curves, curves.size["width"] // 2 - 25, 0).perform()
    tip = one(browser, "#tip").text
    assert "round 40" in tip
    assert "objective gap" in tip
    assert "KiB sent" in tip


def test_the_guide_lies_on_what_it_predicts(show):
    """From an eigenvector of W the consensus error is exactly σ^k e_0: both curves are one."""
    browser = show(ring_run(decaying(8, 40)))
    paths = browser.execute_script(
        "return [...document.querySelectorAll('.chart:nth-child(2) path.curve')].map(path => path.getAttribute('d'))"
    )
    measured, guide = [np.array([[float(c) for c in point.split()] for point in d[1:].split("L")]) for d in paths]
    assert len(measured) == 41
    np.testing.assert_allclose(guide, measured, atol=0.11)
    np.testing.assert_allclose(np.diff(measured, n=2, axis=0), 0, atol=0.21)  # a straight line on a log scale


def test_gaps_stay_gaps(show):
    """Neither a bridge over what is missing nor a drop to zero."""
    run = report_run(4, 9)
    objective = np.array([5.0, 4, 3, np.nan, 3.5, 3, np.inf, 2.5, 2, 2])
    run = with_history(run, {"objective": objective, "gap": np.full(10, np.nan)})
    browser = show(run)
    assert "Objective (linear scale)" in one(browser, ".chart h3").text
    pieces = one(browser, ".chart path.curve").get_attribute("d").split("M")[1:]
    assert [piece.count("L") + 1 for piece in pieces] == [3, 2, 3]


def test_large_graphs_are_drawn_on_a_canvas(show):
    browser = show(report_run(450, 8))
    canvas = one(browser, "#graph canvas")
    last = canvas.screenshot_as_png
    assert len(last) > 5000  # an empty one takes a few hundred bytes
    one(browser, "#record").send_keys(_keys().HOME)
    assert canvas.screenshot_as_png != last
    one(browser, "#record").send_keys(_keys().END)
    assert canvas.screenshot_as_png == last


@pytest.mark.parametrize("case", ["empty", "nan", "alone", "many", "directed", "diverging"])
def test_unusual_runs_leave_the_console_empty(show, case):
    run = report_run({"alone": 1, "many": 2001, "directed": 5}.get(case, 4), 6)
    if case == "empty":
        run = dataclasses.replace(run, history=History.empty())
    elif case == "nan":
        nan = {name: np.full(7, np.nan) for name in run.history.scalars if name not in ("round", "bytes")}
        run = with_history(run, nan, {name: np.full((7, 4), np.nan) for name in run.history.agents})
    elif case == "alone":
        run = dataclasses.replace(run, graph=ALONE)
    elif case == "directed":
        run = dataclasses.replace(run, graph={**run.graph, "directed": True, "positions": None})
    elif case == "diverging":
        gap = np.array([1, 1e3, 1e100, 1e200, np.inf, np.nan, np.nan])
        run = with_history(run, {"gap": gap}, {"loss": np.outer(gap, np.ones(4))})
        run = dataclasses.replace(run, outcome=Outcome.DIVERGED)
    browser = show(run)
    assert ("pictures are drawn up to 2,000" in one(browser, "#graph").text) == (case == "many")
    for svg in browser.find_elements("css selector", "svg"):
        assert "NaN" not in svg.get_attribute("outerHTML")
        assert "Infinity" not in svg.get_attribute("outerHTML")


def test_a_coupled_problem_has_its_charts_and_no_empty_panel(show):
    browser = show(market_run())
    titles = [heading.text.partition(" (")[0] for heading in browser.find_elements("css selector", ".chart h3")]
    assert titles == ["Gap and violation", "Cost", "Prices", "Residuals"]
    assert not browser.find_elements("css selector", "#graph")
    assert all(figure.size["height"] > 50 for figure in browser.find_elements("css selector", "figure, .chart"))
    headings = [heading.text for heading in browser.find_elements("css selector", "h2")]
    assert headings == ["Certificate", "Price", "Agents and rows", "Convergence", "Agents", "Configuration"]
    rows = browser.find_elements("css selector", ".market:nth-of-type(2) tbody tr")
    assert [row.text.split()[-1] for row in rows] == ["−1.5", "−0.5"]
    choose(browser, "axis", "bytes_down")
    for svg in browser.find_elements("css selector", "svg"):
        assert "NaN" not in svg.get_attribute("outerHTML")


def test_paper_has_the_figures_and_no_controls(show):
    browser = show(report_run(80))
    hidden = "return [...document.querySelectorAll('.toggle, .play, #record')].every(e => !e.offsetParent)"
    assert not browser.execute_script(hidden)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert browser.execute_script(hidden)
        rows = browser.find_elements("css selector", "#agents tbody tr")
        assert sum(row.is_displayed() for row in rows) == 60
        assert "first 60 of 80 rows are printed" in one(browser, "#agents").text
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    paper = browser.execute_cdp_cmd("Page.printToPDF", {})["data"]
    assert paper.startswith("JVBERi")  # %PDF-


def test_fits_a_phone(show, browser):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        show(report_run(8), (Table("AUC", tuple("abcdefgh"), [tuple(range(8))]),))
        drawn = "return document.querySelector('.chart > div > svg').viewBox.baseVal.width"
        _until(lambda: browser.execute_script(drawn) < 360)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_controls_have_names(show):
    browser = show(report_run(6))
    unnamed = [e.tag_name for e in browser.find_elements("css selector", "input, button, [role=img]") if not e.accessible_name]
    assert unnamed == []


def _keys():
    from selenium.webdriver.common.keys import Keys

    return Keys


def _until(holds, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
