"""Dagster's UI as an operator has it: pages in Debian's Chromium, and pictures of them."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Locator, Page, TimeoutError, expect, sync_playwright  # noqa: A004

CHROMIUM = shutil.which("chromium")
PATIENCE_MS = 60_000  # for anything to appear; far more than it takes
_AGAIN_MS = 5_000  # after this a page is loaded once more: not all of them bring themselves up to date
# Chromium's own sandbox does not work as root, which CI is; all it loads is our own server.
_OPTIONS = ("--no-sandbox", "--disable-dev-shm-usage")


@dataclass(frozen=True)
class Ui:
    """A browser's window on Dagster.

    Attributes:
        page: the window.
        url: the webserver's address.
        pictures: the folder that takes pictures; None: there are none taken.
    """

    page: Page
    url: str
    pictures: Path | None

    def go(self, path: str) -> None:
        """Opens a page by its path."""
        self.page.goto(f"{self.url}{path}")

    def sees(self, text: str | re.Pattern[str], within: Locator | None = None) -> Locator:
        """Waits until a text is to be seen; the place where it is."""
        found = (within or self.page.locator("body")).get_by_text(text).filter(visible=True).first
        expect(found).to_be_visible()
        return found

    def comes_to_see(self, path: str, what: Locator) -> None:
        """Opens a page, again and again, until something is to be seen on it."""
        for _ in range(PATIENCE_MS // _AGAIN_MS):
            self.go(path)
            try:
                what.first.wait_for(timeout=_AGAIN_MS)
            except TimeoutError:
                continue
            return
        expect(what.first).to_be_visible(timeout=_AGAIN_MS)

    def press(self, name: str | re.Pattern[str]) -> None:
        """Presses a button."""
        self.page.get_by_role("button", name=name).first.click()

    def picture(self, name: str) -> None:
        """Takes a picture, if pictures are wanted."""
        if self.pictures is not None:
            self.page.mouse.move(0, 0)  # so that nothing is lit by the pointer
            self.page.wait_for_load_state("networkidle")
            self.page.screenshot(path=self.pictures / f"{name}.png", animations="disabled")


@contextmanager
def opened(url: str) -> Iterator[Ui]:
    """A window on the Dagster at an address; environment variable LPM_TEST_PICTURES names where pictures go."""
    pictures = os.environ.get("LPM_TEST_PICTURES")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_OPTIONS)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(PATIENCE_MS)
            expect.set_options(timeout=PATIENCE_MS)
            yield Ui(page, url, Path(pictures) if pictures else None)
        finally:
            browser.close()
