"""The page of a run in a real browser: no errors, no network, nothing overlaps, and everything answers."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from subcell_hf.report.encoders_page import write_encoders_page
from subcell_hf.report.page import write_report
from tests.browsing import ask, open_chromium, set_screen, wait_for
from tests.inference.example_output import write_example_output
from tests.report.test_encoders_page import write_encoders

pytestmark = pytest.mark.slow

IN_SIGHT = """
const boxes = [];
const names = ['.hero h1', '.counts', '.strip', 'nav', '#locations', '#montage', '.map-bar', '#map-frame', '#legend',
  '.filters', '#found', '#table', '.pager', '#quality', '#skipped', '#run', 'footer'];
for (const name of names)
  for (const found of document.querySelectorAll(name)) {
    const {left, top, right, bottom} = found.getBoundingClientRect();
    if (right > left && bottom > top) boxes.push([name, left, top + scrollY, right, bottom + scrollY]);
  }
return boxes;
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(write_example_output(tmp_path_factory.mktemp("browser") / "Plate 7")).as_uri()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with open_chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def opened(chromium: webdriver.Chrome, address: str) -> Callable[..., webdriver.Chrome]:
    def at_width(width: int = 1280, height: int = 900, *, dark: bool = False, page: str = address) -> webdriver.Chrome:
        set_screen(chromium, width, height, dark=dark)
        for log in ("browser", "performance"):
            chromium.get_log(log)
        chromium.get(page)
        wait_for(lambda: ask(chromium, "return document.documentElement.dataset.ready === '1'"))
        return chromium

    return at_width


def colours_of(browser: webdriver.Chrome, canvas: str) -> int:
    """How many colours a canvas shows."""
    script = """const c = document.querySelector(arguments[0]);
        const d = new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer);
        return new Set(d).size;"""
    return int(ask(browser, script, canvas))


def tiles_of(browser: webdriver.Chrome) -> str:
    return str(ask(browser, "return document.querySelector('.tile canvas').toDataURL()"))


def over_cell(browser: webdriver.Chrome, number: int) -> ActionChains:
    """The pointer over a point of the map."""
    x, y, width, height = ask(
        browser,
        "document.getElementById('map').scrollIntoView({behavior: 'instant'});"
        "return [...map.onScreen(arguments[0]), map.frame.clientWidth, map.frame.clientHeight]",
        number,
    )
    mark = browser.find_element(By.ID, "map-mark")
    return ActionChains(browser).move_to_element_with_offset(mark, round(x - width / 2), round(y - height / 2))


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_stands_alone_and_nothing_overlaps(
    opened: Callable[..., webdriver.Chrome], width: int, dark: bool
) -> None:
    browser = opened(width, dark=dark)
    wait_for(lambda: colours_of(browser, ".tile canvas") > 20)
    assert colours_of(browser, "#map-points") > 8
    boxes = ask(browser, IN_SIGHT)
    assert {"#table", "#map-frame", "#legend", "#quality", "#skipped"} <= {box[0] for box in boxes}
    for (name, l1, t1, r1, b1), (other, l2, t2, r2, b2) in itertools.combinations(boxes, 2):
        apart = r1 <= l2 + 1 or r2 <= l1 + 1 or b1 <= t2 + 1 or b2 <= t1 + 1
        assert apart, f"{name} and {other} overlap at {width} px"
    assert ask(browser, "return document.documentElement.scrollWidth") <= width
    wide = """return [...document.querySelectorAll('main *')]
        .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.tagName + '.' + e.className)"""
    assert ask(browser, wide) == []
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    asked = [entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
    # The browser's own first tab asks for things, too.
    own = [message for message in asked if '"documentURL":"file:' in message]
    assert own
    assert [message for message in own if '"url":"file:' not in message and '"url":"data:' not in message] == []


def test_the_scheme_of_the_system_is_followed(opened: Callable[..., webdriver.Chrome]) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    light, dark = ask(opened(), paper), ask(opened(dark=True), paper)
    assert light != dark


def test_colours_of_the_map_switch(opened: Callable[..., webdriver.Chrome]) -> None:
    browser = opened()
    colour = Select(browser.find_element(By.ID, "colour"))
    names = [option.text for option in colour.options]
    assert {"Predicted location", "Gene", "Plate", "Antibody", "Area (µm²)", "Focus"} <= set(names)
    seen = set()
    for name in ("Predicted location", "Gene", "Plate", "Focus"):
        colour.select_by_visible_text(name)
        seen.add(ask(browser, "return map.points.toDataURL()"))
    assert len(seen) == 4
    assert "≤" in browser.find_element(By.ID, "legend").text
    colour.select_by_visible_text("Gene")
    assert "<script>alert(1)</script>" in browser.find_element(By.ID, "legend").text
    before = ask(browser, "return map.points.toDataURL()")
    browser.find_element(By.CSS_SELECTOR, "#legend button").click()
    assert ask(browser, "return map.points.toDataURL()") != before


def test_the_pointer_finds_the_cell(opened: Callable[..., webdriver.Chrome]) -> None:
    browser = opened()
    over_cell(browser, 17).perform()
    tip = browser.find_element(By.ID, "tip")
    wait_for(tip.is_displayed)
    shown = ask(browser, "return map.hovered")
    x, y = ask(
        browser, "const [a, b] = [map.onScreen(17), map.onScreen(map.hovered)]; return [a[0] - b[0], a[1] - b[1]]"
    )
    assert abs(x) <= 2
    assert abs(y) <= 2
    assert ask(browser, "return data.ids[arguments[0]]", shown) in tip.text
    wait_for(lambda: colours_of(browser, "#tip canvas") > 20)
    over_cell(browser, 17).click().perform()
    assert browser.find_element(By.ID, "detail").is_displayed()
    assert ask(browser, "return data.ids[arguments[0]]", shown) in browser.find_element(By.ID, "detail").text


def test_a_finger_finds_the_cell(opened: Callable[..., webdriver.Chrome]) -> None:
    browser = opened(360, 740)
    ask(
        browser,
        """const box = map.frame.getBoundingClientRect(); const [x, y] = map.onScreen(5);
        for (const kind of ['pointerdown', 'pointerup']) map.mark.dispatchEvent(new PointerEvent(kind,
          {pointerType: 'touch', pointerId: 1, clientX: box.left + 1 + x, clientY: box.top + 1 + y}));""",
    )
    tip = browser.find_element(By.ID, "tip")
    assert tip.is_displayed()
    assert "Tap for more" in tip.text
    inside = """const [t, f] = [map.tip, map.frame].map((e) => e.getBoundingClientRect());
        return t.left >= f.left && t.right <= f.right && t.top >= f.top && t.bottom <= f.bottom"""
    assert ask(browser, inside)
    ask(browser, "map.tip.click()")
    assert browser.find_element(By.ID, "detail").is_displayed()


def test_a_cell_leads_to_similar_cells(opened: Callable[..., webdriver.Chrome]) -> None:
    browser = opened()
    ask(browser, "openDetail(3)")
    similar = ask(browser, "return data.similar[3]")
    wait_for(lambda: colours_of(browser, "#detail .similar canvas") > 20)
    browser.find_element(By.CSS_SELECTOR, "#detail .similar button").click()
    assert ask(browser, "return data.ids[arguments[0]]", similar[0]) in browser.find_element(By.ID, "detail").text


def test_the_map_zooms(opened: Callable[..., webdriver.Chrome]) -> None:
    browser = opened()
    before = ask(browser, "return map.onScreen(0)")
    browser.find_element(By.ID, "zoom-in").click()
    assert ask(browser, "return map.onScreen(0)") != before
    browser.find_element(By.ID, "zoom-all").click()
    assert ask(browser, "return map.onScreen(0)") == before


def test_the_table_is_searched_filtered_sorted_and_paged(opened: Callable[..., webdriver.Chrome]) -> None:
    browser = opened()
    rows = "return [...document.querySelectorAll('#table tbody tr')].map((row) => row.children[1].textContent)"
    found = browser.find_element(By.ID, "found")
    assert len(ask(browser, rows)) == 25
    first = ask(browser, rows)
    browser.find_element(By.ID, "next").click()
    assert not set(first) & set(ask(browser, rows))
    Select(browser.find_element(By.ID, "level")).select_by_visible_text("Nucleoli")
    assert found.text == "15 of 60 cells"
    browser.find_element(By.ID, "search").send_keys("1_a0 HPA3")
    assert all(name.startswith("1_A0") for name in ask(browser, rows)) or found.text.startswith("0 of")
    browser.find_element(By.ID, "search").clear()
    ask(browser, "table.search.value = ''; table.level.value = ''; filterCells()")
    Select(browser.find_element(By.ID, "sort")).select_by_visible_text("Focus")
    values = "return table.found.map((cell) => columns.get('qc_focus').values[cell])"
    rising = ask(browser, values)
    assert rising[-1] is None
    assert rising[:-1] == sorted(rising[:-1])
    browser.find_element(By.ID, "direction").click()
    assert ask(browser, values) == [*reversed(rising[:-1]), None]


def test_a_bar_leads_to_its_cells(opened: Callable[..., webdriver.Chrome]) -> None:
    browser = opened()
    bar = browser.find_element(By.CSS_SELECTOR, '.bar[data-level="Mitochondria"]')
    bar.click()
    assert browser.find_element(By.ID, "found").text == "15 of 60 cells"
    pressed = browser.find_element(By.CSS_SELECTOR, '#legend button[aria-pressed="true"]')
    assert "Mitochondria" in pressed.text


def test_outlines_and_attention_lie_over_the_pictures(opened: Callable[..., webdriver.Chrome]) -> None:
    browser = opened()
    wait_for(lambda: colours_of(browser, ".tile canvas") > 20)
    seen = {tiles_of(browser)}
    for look in ("outline", "0", "1"):
        browser.find_element(By.CSS_SELECTOR, f'[data-look="{look}"]').click()
        wait_for(lambda: tiles_of(browser) not in seen)
        seen.add(tiles_of(browser))
    assert len(seen) == 4


@pytest.mark.parametrize("width", [1280, 360])
def test_encoders_side_by_side(opened: Callable[..., webdriver.Chrome], tmp_path: Path, width: int) -> None:
    browser = opened(width, page=write_encoders_page(write_encoders(tmp_path / "run")).as_uri())
    wait_for(lambda: colours_of(browser, "#rows .tile canvas") > 20)
    assert colours_of(browser, ".maps canvas") > 8
    names = "return [...document.querySelectorAll('#rows .tile')].map((tile) => tile.ariaLabel)"
    before, ids = ask(browser, names), ask(browser, "return data.ids")
    encoders = ask(browser, "return data.encoders")
    assert before == [ids[cell] for encoder in encoders for cell in encoder["neighbours"][0]]
    ask(browser, "document.querySelectorAll('#rows .tile')[3].click()")
    assert ask(browser, "return document.querySelector('#query b').textContent") == before[3]
    assert ask(browser, names) != before
    spot = """const [x, y] = maps[1].place(5); const box = maps[1].canvas.getBoundingClientRect();
        maps[1].canvas.dispatchEvent(new MouseEvent('click', {clientX: box.left + x, clientY: box.top + y}));"""
    ask(browser, spot)
    assert ask(browser, "return document.querySelector('#query b').textContent") == ids[5]
    assert ask(browser, "return document.documentElement.scrollWidth") <= width
    assert [entry["message"] for entry in browser.get_log("browser")] == []
