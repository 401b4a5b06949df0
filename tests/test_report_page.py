"""The report as a reader sees it: opened in a browser that reaches no network."""

import json
import re
import shutil

import pytest
from command import HUNG
from workflow_support import succeed

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
by = pytest.importorskip("selenium.webdriver.common.by").By
wait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="Debian's packages chromium and chromium-driver are missing",
    ),
]
TABLES = ("Cost", "Detection", "Differences", "Errors", "Performance")
FIGURES = (
    "Accuracy over rounds",
    "Detection",
    "Errors over rounds",
    "Heat map",
    "Partition",
    "Reconstruction error",
)
SETTINGS = (
    "Settings: data: digits; split: balanced dirichlet; model: mlp; clients: 8; malicious: 2; "
    "rounds: 2; seeds: 0."
)


@pytest.fixture(scope="module")
def report(finished, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    succeed(finished, "--cores", 1, "--report", path)
    return path


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1400,900"):
        options.add_argument(f"--{argument}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    started.set_page_load_timeout(HUNG)
    started.set_script_timeout(HUNG)
    yield started
    started.quit()


class Page:
    """An open report: what can be read in it, and what can be clicked."""

    def __init__(self, browser, path):
        self.browser = browser
        browser.get("about:blank")
        for kind in ("browser", "performance"):
            browser.get_log(kind)
        browser.get(path.as_uri())
        self.find("//nav//span[text()='Results']")

    def find(self, xpath):
        """Return the first visible element, waiting until there is one."""

        def seen(browser):
            return [one for one in browser.find_elements(by.XPATH, xpath) if one.is_displayed()]

        return wait(self.browser, HUNG).until(seen)[0]

    def open(self, *menu):
        for entry in menu:
            self.find(f"//nav//a[.//span[text()='{entry}']]").click()

    def click(self, result, icon):
        row = f"//tr[td[normalize-space()='{result}']]"
        self.find(f"{row}//a[@iconname='{icon}']").click()

    def text(self):
        return self.browser.find_element(by.TAG_NAME, "body").text

    def results(self):
        rows = self.browser.find_elements(by.XPATH, "//nav//tbody/tr/td[1]")
        return tuple(text for text in (row.text for row in rows) if text)

    def mistakes(self):
        return [e["message"] for e in self.browser.get_log("browser") if e["level"] == "SEVERE"]

    def requests(self):
        """Return the addresses that the page asked for since it was opened."""
        events = [json.loads(e["message"])["message"] for e in self.browser.get_log("performance")]
        sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]


@pytest.fixture
def page(browser, report):
    """A freshly opened page that must end without an error and without a request to the network."""
    opened = Page(browser, report)
    yield opened
    assert opened.mistakes() == []
    requests = opened.requests()
    assert any(address.startswith("file:") for address in requests)
    assert [a for a in requests if not re.match("file:|data:|blob:|about:", a)] == []


COLOURS = """
const canvas = arguments[0];
const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
return new Set(pixels).size;
"""


def test_the_start_page_says_what_this_is_and_draws_the_rules(page):
    page.find("//*[contains(text(), 'Federated learning under model poisoning')]")
    graph = page.find("//canvas")
    wait(page.browser, HUNG).until(lambda browser: browser.execute_script(COLOURS, graph) > 10)


@pytest.mark.parametrize(
    ("entry", "shown"),
    [("Statistics", "(//canvas)[2]"), ("About", "//nav//*[contains(text(), 'tailwindcss')]")],
)
def test_the_pages_of_snakemake_itself_open(page, entry, shown):
    page.open(entry)
    page.find(shown)


@pytest.mark.parametrize(("kind", "names"), [("Tables", TABLES), ("Figures", FIGURES)])
def test_every_category_lists_its_results_in_words(page, kind, names):
    page.open("Results", kind)
    page.find("//nav//tbody")
    assert page.results() == names
    assert "_" not in page.text()


@pytest.mark.parametrize(
    ("table", "words", "caption"),
    [
        (
            "Performance",
            ["Attack", "FedAvg", "FedREDefense", "No attack", "MPAF"],
            "Mean over seeds",
        ),
        (
            "Detection",
            ["Attack", "Defense", "DACC", "FPR", "FNR", "AAR", "FedREDefense"],
            "Mean over seeds",
        ),
        ("Differences", ["Attack", "FedREDefense", "No attack", "MPAF"], "paired differences"),
        (
            "Errors",
            ["Attack", "Clients", "Honest", "Malicious", "n"],
            "Reconstruction errors of the updates",
        ),
        ("Cost", ["Defense", "Training (s)", "Iterations", "FedAvg"], "What a round costs"),
    ],
)
def test_a_table_is_shown_as_a_table_with_its_caption(page, table, words, caption):
    page.open("Results", "Tables")
    page.click(table, "eye")
    page.browser.switch_to.frame(page.find("//iframe"))
    page.find("//td")
    cells = [cell.text for cell in page.browser.find_elements(by.XPATH, "//th | //td")]
    assert set(words) <= set(cells)
    assert any(re.match(r"-?\d+\.\d", cell) for cell in cells)
    page.browser.switch_to.default_content()
    page.click(table, "information-circle")
    page.find(f"//*[contains(text(), '{caption}')]")
    assert SETTINGS in page.text()
    assert "From 4 runs." in page.text()


@pytest.mark.parametrize(
    ("figure", "caption"),
    [
        ("Accuracy over rounds", "one panel an attack"),
        ("Detection", "Share of honest clients that were flagged"),
        ("Heat map", "Test accuracy after the last round"),
        ("Partition", "How many images of each class"),
        ("Reconstruction error", "Reconstruction error of each client"),
    ],
)
def test_a_figure_is_drawn_with_its_caption(page, figure, caption):
    page.open("Results", "Figures")
    page.click(figure, "eye")
    image = page.find("//img[starts-with(@src, 'data:image/png') or starts-with(@src, 'blob:')]")
    width = "return arguments[0].naturalWidth"
    wait(page.browser, HUNG).until(lambda browser: browser.execute_script(width, image) > 500)
    page.click(figure, "information-circle")
    page.find(f"//*[contains(text(), '{caption}')]")
    assert SETTINGS in page.text()
