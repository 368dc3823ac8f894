"""Pages in a real browser: Debian's chromium, headless, through its driver."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


@contextmanager
def open_chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with logs of its console and its requests; the test is skipped where there is none."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no browser to look with: Debian's chromium and chromium-driver are not installed")
    options = Options()
    options.binary_location = CHROMIUM
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


def set_screen(browser: webdriver.Chrome, width: int, height: int, *, dark: bool = False) -> None:
    """Size and colour scheme; nothing moves, as a scrolling page is hard to click on."""
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})


def ask(browser: webdriver.Chrome, script: str, *values: Any) -> Any:
    """What a script returns."""
    return browser.execute_script(script, *values)


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds, at most 30 s."""
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("the page did not come to what was waited for within 30 s")
