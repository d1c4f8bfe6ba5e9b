"""The pages in a real browser, opened from disk."""

import json
import os
import shutil

import pytest
from conftest import ROOT
from test_report import hostile_page, run_data  # noqa: F401 (a fixture)

from pipeline.report.page import render
from pipeline.report.run_page import run_page

webdriver = pytest.importorskip("selenium.webdriver")
BY_CSS = "css selector"
PHONE = 390

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER) and not os.environ.get("CI"),
    reason="chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)",
)

BLANK = """
const found = [];
for (const image of document.images) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  if (!image.complete || !canvas.width) { found.push("not loaded"); continue; }
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  if (Math.max(...pixels.filter((_, i) => i % 4 < 3)) - Math.min(...pixels.filter((_, i) => i % 4 < 3)) < 8) {
    found.push(image.alt || "blank");
  }
}
return found;
"""
EMPTY_DRAWINGS = """
return [...document.querySelectorAll(".drawing svg")].filter((svg) => {
  const box = svg.getBoundingClientRect();
  return box.width < 100 || box.height < 40 || svg.querySelectorAll("path, use").length < 10;
}).length;
"""


@pytest.fixture(scope="module")
def browser():
    assert BROWSER, "chromium is not installed"
    assert DRIVER, "chromedriver is not installed"
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for switch in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--force-prefers-reduced-motion",
    ):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens a page, given as HTML, at a width and in a colour scheme."""

    def show(html, *, width=1200, scheme="light"):
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        for log_type in ("browser", "performance"):
            browser.get_log(log_type)
        browser.get(path.as_uri())
        return browser

    return show


@pytest.fixture(scope="module")
def html(run_data):  # noqa: F811
    return render(run_page(run_data))


def texts(elements):
    return [element.text for element in elements]


def test_page_loads_completely_and_requests_nothing(opened, html):
    page = opened(html)
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    requested = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    assert page.get_log("browser") == []
    assert requested
    assert all(url.startswith(("file:", "data:")) for url in requested)
    assert len(page.find_elements(BY_CSS, "img")) > 50
    assert page.execute_script(BLANK) == []
    assert len(page.find_elements(BY_CSS, ".drawing svg")) > 8
    assert page.execute_script(EMPTY_DRAWINGS) == 0


def test_click_on_a_cell_shows_and_hides_its_images(opened, html):
    page = opened(html)
    for button in page.find_elements(BY_CSS, "#confusion [data-opens]")[:5]:
        button.click()
        shown = page.find_elements(BY_CSS, "#confusion .opened img")
        assert len(shown) == min(int(button.text), 16)
        assert page.execute_script(BLANK) == []
        assert button.get_attribute("aria-expanded") == "true"
    button.click()

    assert page.find_elements(BY_CSS, "#confusion .opened img") == []
    assert button.get_attribute("aria-expanded") == "false"


def test_table_sorts_in_both_orders(opened, html):
    page = opened(html)
    header = page.find_elements(BY_CSS, "#classes th button")[1]
    column = "#classes tbody td:nth-child(2)"
    header.click()
    descending = [float(text) for text in texts(page.find_elements(BY_CSS, column))]
    header.click()
    ascending = [float(text) for text in texts(page.find_elements(BY_CSS, column))]

    assert descending == sorted(descending, reverse=True)
    assert ascending == sorted(ascending)
    assert len(set(ascending)) > 3


def test_charts_stand_beside_their_tables_on_a_wide_screen_and_above_them_on_a_phone(opened, html):
    boxes = {}
    for width in (1600, PHONE):
        page = opened(html, width=width)
        boxes[width] = [
            page.execute_script(f"return document.querySelector('#folds {part}').getBoundingClientRect().toJSON()")
            for part in (".drawing", ".table")
        ]
        main = page.execute_script("return document.querySelector('main').getBoundingClientRect().width")
        assert main == page.execute_script("return document.documentElement.clientWidth")

    (chart, table), (chart_on_phone, table_on_phone) = boxes[1600], boxes[PHONE]
    assert table["left"] >= chart["right"]
    assert table["top"] < chart["bottom"]
    assert table_on_phone["top"] >= chart_on_phone["bottom"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phone_without_horizontal_scrolling(opened, html, scheme):
    page = opened(html, width=PHONE, scheme=scheme)

    assert page.execute_script("return innerWidth") == PHONE
    assert page.execute_script("return document.documentElement.scrollWidth") <= PHONE


def test_dark_and_light_schemes_are_readable(opened, html):
    brightness = {}
    for scheme in ("light", "dark"):
        page = opened(html, scheme=scheme)
        colours = page.execute_script(
            "return ['backgroundColor', 'color'].map((key) => getComputedStyle(document.body)[key])"
        )
        brightness[scheme] = [
            sum(float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]) / 3 for colour in colours
        ]

    (background, text), (dark_background, dark_text) = brightness["light"], brightness["dark"]
    assert background - text > 150
    assert dark_text - dark_background > 150


def test_script_in_a_name_is_not_run(opened):
    page = opened(render(hostile_page()))

    assert page.execute_script("return window.hacked === undefined")
    assert page.find_element(BY_CSS, "h1").text == "<script>window.hacked = 1</script>"
    page.find_element(BY_CSS, "[data-opens]").click()
    assert "<script>" in page.find_element(BY_CSS, ".opened").text
    assert page.execute_script("return window.hacked === undefined")


@pytest.mark.slow
def test_report_of_a_complete_run_opens(whole_run, opened):
    folder, process = whole_run
    path = folder / "submissions" / "tiny" / "report.html"
    page = opened(path.read_text(encoding="utf-8"))

    assert "report: submissions/tiny/report.html" in process.stdout
    assert page.get_log("browser") == []
    assert page.execute_script(BLANK) == []
    assert len(page.find_elements(BY_CSS, "section")) == 12
    assert "predict" in page.find_element(BY_CSS, "#folds").text
    assert ROOT.as_posix() not in page.page_source
