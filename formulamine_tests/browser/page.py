"""A page of the UI in headless Chromium, as a person sees it: texts, buttons and fields, never markup."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_S = 120.0
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1600,1200"),
)


def why_no_browser() -> str:
    """Why no browser can be started here; empty where one can."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(missing)} missing: apt-get install chromium chromium-driver" if missing else ""


@dataclass(frozen=True)
class Page:
    """The one tab of a browser."""

    driver: webdriver.Chrome
    address: str
    pictures: Path
    """Folder of the screenshots."""

    def open(self, path: str) -> None:
        self.driver.get(self.address + path)

    def text(self) -> str:
        """Everything that can be read on the page."""
        return self.driver.find_element(By.TAG_NAME, "body").text

    def read(self, text: str, seconds: float = PATIENCE_S) -> None:
        """Wait until a text can be read."""
        self._wait(lambda: text in self.text(), f"the text {text!r}", seconds)

    def click(self, label: str, seconds: float = PATIENCE_S) -> None:
        """Click the last visible thing with this label that can be clicked: a dialog's come last."""

        def clicked() -> bool:
            found = [one for one in self._labelled(label) if one.is_displayed() and one.is_enabled()]
            if found:
                self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", found[-1])
                found[-1].click()
            return bool(found)

        self._wait(clicked, f"{label!r} to click", seconds)

    def write(self, text: str, placeholder: str = "") -> None:
        """Write into the last field shown (that shows a placeholder), over what stands there."""
        selector = f"input[placeholder^={placeholder!r}]" if placeholder else "input[type=text]"
        self._wait(lambda: bool(self.driver.find_elements(By.CSS_SELECTOR, selector)), f"field {placeholder!r}")
        field = [one for one in self.driver.find_elements(By.CSS_SELECTOR, selector) if one.is_displayed()][-1]
        field.click()
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text)
        field.send_keys(Keys.TAB)

    def click_beside(self, name: str, label: str) -> None:
        """Click something in the table row that begins with a name."""
        row = f"//tr[td[1][normalize-space()={name!r}]]//*[normalize-space()={label!r}]"
        self._wait(lambda: bool(self.driver.find_elements(By.XPATH, row)), f"{label!r} beside {name!r}")
        self.driver.find_elements(By.XPATH, row)[-1].click()

    def drawn(self) -> list[int]:
        """Widths, in pixels, of the pictures that stand in the page itself and could be drawn."""
        shown = self.driver.find_elements(By.CSS_SELECTOR, "img[src^='data:image/svg']")
        return [int(one.get_attribute("naturalWidth") or 0) for one in shown]

    def photograph(self, name: str) -> Path:
        """A screenshot for whoever wants to look."""
        path = self.pictures / f"{name}.png"
        self.driver.save_screenshot(str(path))
        return path

    def _labelled(self, label: str) -> list[WebElement]:
        labelled = f"[normalize-space()={label!r}]"
        return self.driver.find_elements(
            By.XPATH, f"//button{labelled} | //a{labelled} | //*[@role='button']{labelled}"
        )

    def _wait(self, true: object, what: str, seconds: float = PATIENCE_S) -> None:
        assert callable(true)
        wait = WebDriverWait(self.driver, seconds, 0.2, [StaleElementReferenceException])
        try:
            wait.until(lambda _: true())
        except TimeoutException:
            shot = self.photograph("failed")
            raise AssertionError(f"no {what} within {seconds:.0f} s; {shot} shows\n{self.text()[:3000]}") from None


@contextmanager
def browsing(address: str, folder: Path) -> Iterator[Page]:
    """A new browser with a profile of its own, ended at the end."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    try:
        page = Page(driver, address, folder)
        page.open("/")
        # FACTS of the UI: a fresh profile is greeted by a dialog over everything.
        driver.execute_script("localStorage.setItem('communityNux', '\"1\"')")  # type: ignore[no-untyped-call]
        yield page
    finally:
        driver.quit()
