"""The annotation page in a real browser: 30 cells by keys, reloaded, exported; two tabs; no connection; a lasso."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from subcell_hf.evaluation.annotation import read_labels
from subcell_hf.hub import AnnotationServer
from subcell_hf.tables.cell_pictures import write_pictures
from subcell_hf.tables.files import write_parquet
from subcell_hf.workflows import AnnotationInput, AnnotationPage, open_annotation
from tests.browsing import ask, open_chromium, set_screen, wait_for
from tests.evaluation.annotation.sorted_cells import KINDS, sorted_cells
from tests.inference.example_output import HOSTILE, example_pictures

pytestmark = pytest.mark.slow

TRUTH = dict(zip(*(sorted_cells(120)[0].cells["cell_id"], sorted_cells(120)[1]), strict=True))
SHOWN_CLASSES = "return [...document.querySelectorAll('#classes button span')].map((found) => found.textContent)"
OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with open_chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotated") / "plate 7"
    folder.mkdir()
    table, _ = sorted_cells(120)
    write_parquet(table, folder / "embeddings.parquet")
    write_pictures(example_pictures(table, attention=False), folder / "pictures.parquet")
    return folder


@pytest.fixture
def server(run: Path, tmp_path: Path) -> Iterator[AnnotationServer]:
    with open_annotation(run, AnnotationInput(tmp_path / "labels.jsonl", "ann"), AnnotationPage(port=0)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def open_page(browser: webdriver.Chrome, server: AnnotationServer, width: int = 1280, height: int = 900) -> None:
    set_screen(browser, width, height)
    browser.get_log("browser")
    browser.get(server.url)
    wait_for(lambda: ask(browser, "return document.documentElement.dataset.ready === '1'"))


def press(browser: webdriver.Chrome, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


def add_class(browser: webdriver.Chrome, name: str) -> None:
    press(browser, "n")
    press(browser, name + Keys.ENTER)


def label_cells(browser: webdriver.Chrome, count: int) -> None:
    """Label the cells that are shown by the key of their true class."""
    for _ in range(count):
        cell = ask(browser, "return upcoming.length ? data.ids[upcoming[0].cell] : ''")
        press(browser, str(1 + KINDS.index(TRUTH[cell])))


def stored(server: AnnotationServer) -> dict[str, str]:
    path = server.session.file.path
    return {one.cell_id: one.class_name for one in (read_labels(path) if path.exists() else ()) if one.cell_id}


def test_thirty_cells_by_keys_then_reload_undo_and_export(
    chromium: webdriver.Chrome, server: AnnotationServer, tmp_path: Path
) -> None:
    open_page(chromium, server)
    for name in KINDS:
        add_class(chromium, name)
    label_cells(chromium, 20)
    wait_for(lambda: len(stored(server)) == 20)
    chromium.refresh()
    wait_for(lambda: ask(chromium, "return document.documentElement.dataset.ready === '1' && state.predicted.length"))
    assert chromium.find_element(By.ID, "labelled").text == "20"
    label_cells(chromium, 9)
    suggested = ask(chromium, "return suggestionOf(upcoming[0].cell).name")
    last = ask(chromium, "return data.ids[upcoming[0].cell]")
    press(chromium, Keys.ENTER)
    wait_for(lambda: len(stored(server)) == 30)
    labels = stored(server)
    assert {cell: name for cell, name in labels.items() if cell != last} == {
        cell: TRUTH[cell] for cell in labels if cell != last
    }
    assert labels[last] == suggested
    press(chromium, "u")
    wait_for(lambda: len(server.session.merged().labels) == 29)
    assert chromium.find_element(By.ID, "about").text == last
    press(chromium, str(1 + KINDS.index(TRUTH[last])))
    wait_for(lambda: len(server.session.merged().labels) == 30)
    wait_for(lambda: "held out" in chromium.find_element(By.ID, "score-note").text)
    chromium.find_element(By.ID, "export").click()
    wait_for(lambda: "contains labels.csv" in chromium.find_element(By.ID, "exported").text)
    exported = pd.read_csv(tmp_path / "labels-export" / "labels.csv")
    assert dict(zip(exported["cell_id"], exported["class"], strict=True)) == {cell: TRUTH[cell] for cell in labels}
    scores = pd.read_parquet(tmp_path / "labels-export" / "scores.parquet")
    assert (scores["predicted_class"] == [TRUTH[cell] for cell in scores["cell_id"]]).mean() > 0.8
    assert "tiny" in chromium.find_element(By.ID, "exported").text  # why there is no classifier
    assert chromium.get_log("browser") == []


def test_a_lost_connection_loses_no_label(chromium: webdriver.Chrome, server: AnnotationServer) -> None:
    open_page(chromium, server)
    for name in KINDS:
        add_class(chromium, name)
    label_cells(chromium, 2)
    wait_for(lambda: len(stored(server)) == 2)
    chromium.execute_cdp_cmd("Network.enable", {})
    chromium.execute_cdp_cmd("Network.emulateNetworkConditions", OFFLINE)
    label_cells(chromium, 3)
    banner = chromium.find_element(By.ID, "banner")
    wait_for(lambda: "3 labels are kept" in banner.text)
    assert chromium.find_element(By.ID, "labelled").text == "5"
    assert len(stored(server)) == 2
    chromium.execute_cdp_cmd("Network.emulateNetworkConditions", {**OFFLINE, "offline": False})
    wait_for(lambda: len(stored(server)) == 5)
    wait_for(lambda: not banner.is_displayed())
    assert len(read_labels(server.session.file.path)) == len(KINDS) + 5


def test_two_tabs_show_the_same_labels(chromium: webdriver.Chrome, server: AnnotationServer) -> None:
    open_page(chromium, server)
    for name in KINDS:
        add_class(chromium, name)
    first = chromium.current_window_handle
    chromium.switch_to.new_window("tab")
    open_page(chromium, server)
    label_cells(chromium, 4)
    wait_for(lambda: len(stored(server)) == 4)
    chromium.close()
    chromium.switch_to.window(first)
    ask(chromium, "poll()")
    wait_for(lambda: chromium.find_element(By.ID, "labelled").text == "4")
    assert ask(chromium, "return data.ids[upcoming[0].cell]") not in stored(server)
    label_cells(chromium, 2)
    wait_for(lambda: len(stored(server)) == 6)


@pytest.mark.parametrize("width", [1280, 360])
def test_a_hostile_name_is_text_and_nothing_sticks_out(
    chromium: webdriver.Chrome, server: AnnotationServer, width: int
) -> None:
    open_page(chromium, server, width, 800)
    names = [HOSTILE, "<img src=x onerror=alert(1)>", "W" * 180]
    for name in names:
        add_class(chromium, name)
    press(chromium, "1")
    wait_for(lambda: len(stored(server)) == 1)
    wait_for(lambda: ask(chromium, "return document.querySelectorAll('#classes button').length") == 3)
    assert ask(chromium, SHOWN_CLASSES) == names
    assert ask(chromium, "return document.documentElement.scrollWidth") <= width
    boxes = ask(
        chromium,
        """return ['.stage', '.controls', '#progress', '.map-bar', '#map-frame', '#legend', '#details'].map((name) => {
        const {left, top, right, bottom} = document.querySelector(name).getBoundingClientRect();
        return [name, left, top, right, bottom]; })""",
    )
    for (name, l1, t1, r1, b1), (other, l2, t2, r2, b2) in itertools.combinations(boxes, 2):
        assert r1 <= l2 + 1 or r2 <= l1 + 1 or b1 <= t2 + 1 or b2 <= t1 + 1, f"{name} and {other} overlap"
    assert chromium.get_log("browser") == []


def test_a_lasso_leads_to_cells_and_a_class_back_to_the_map(
    chromium: webdriver.Chrome, server: AnnotationServer
) -> None:
    open_page(chromium, server)
    for name in KINDS:
        add_class(chromium, name)
    chromium.find_element(By.ID, "lasso").click()
    ask(
        chromium,
        """const box = map.frame.getBoundingClientRect(); const [x, y] = map.onScreen(7);
        const at = (kind, dx, dy) => map.mark.dispatchEvent(new PointerEvent(kind, {pointerId: 1, bubbles: true,
          clientX: box.left + map.frame.clientLeft + x + dx, clientY: box.top + map.frame.clientTop + y + dy}));
        at('pointerdown', -40, -40); at('pointermove', 40, -40);
        at('pointermove', 40, 40); at('pointerup', -40, 40);""",
    )
    inside = ask(
        chromium,
        """const [x, y] = map.onScreen(7); return data.ids.filter((_, cell) => {
        const [a, b] = map.onScreen(cell); return Math.abs(a - x) < 40 && Math.abs(b - y) < 40; })""",
    )
    assert ask(chromium, "return selection.map((cell) => data.ids[cell])") == inside
    assert "cell 7" in inside
    chromium.find_element(By.CSS_SELECTOR, "#grid button").click()  # leave the first one out
    press(chromium, "2")
    wait_for(lambda: stored(server) == dict.fromkeys(inside[1:], "rings"))
    press(chromium, Keys.ESCAPE)
    wait_for(lambda: ask(chromium, "return document.querySelectorAll('#details button')[4].textContent") != "0")
    ask(chromium, "document.querySelectorAll('#details button')[4].click()")
    assert sorted(ask(chromium, "return [...map.members].map((cell) => data.ids[cell])")) == sorted(inside[1:])


def test_a_class_is_renamed_removed_and_brought_back(chromium: webdriver.Chrome, server: AnnotationServer) -> None:
    open_page(chromium, server)
    for name in KINDS:
        add_class(chromium, name)
    label_cells(chromium, 6)
    wait_for(lambda: len(stored(server)) == 6)
    before = server.session.merged().labels

    def change(word: str, typed: str = "") -> None:
        wait_for(lambda: ask(chromium, "return !queue.waiting.length && !state.training"))  # the buttons stay then
        chromium.find_element(By.CSS_SELECTOR, f"#details button[title='{word} the class dots']").click()
        question = chromium.switch_to.alert
        if typed:
            question.send_keys(typed)
        question.accept()

    def names() -> object:
        return ask(chromium, SHOWN_CLASSES)

    change("Remove")
    wait_for(lambda: names() == ["rings", "threads"])
    wait_for(lambda: "dots" not in server.session.merged().classes)
    press(chromium, "u")
    wait_for(lambda: server.session.merged().labels == before)
    wait_for(lambda: names() == [*KINDS])
    change("Rename", HOSTILE)
    wait_for(lambda: names() == [HOSTILE, "rings", "threads"])
    wait_for(lambda: server.session.merged().labels == {c: HOSTILE if n == "dots" else n for c, n in before.items()})
    assert chromium.get_log("browser") == []
