"""The pictures of the pages in docs/pictures, light and dark, from a report of the demo's voices and a page that is served.

speakerprint demo-voices demo && speakerprint report demo/voices && speakerprint serve &
python docs/screenshots.py report.html http://127.0.0.1:8000
"""

import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parent / "pictures"
SAMPLES = Path(__file__).parents[1] / "src/speakerprint/samples"
CHROMIUM = "/usr/bin/chromium"


def map_of(page: Page, report: str) -> None:
    """The map of a report, with one recording chosen."""
    page.goto(Path(report).resolve().as_uri())
    page.wait_for_selector("#map .points path")
    page.locator("#recording").select_option(index=1)
    page.wait_for_timeout(500)


def comparison(page: Page, address: str) -> None:
    """The served page, with the verdict on two recordings of one speaker."""
    page.goto(address)
    for slot, name in (("first", "ann-1.ogg"), ("second", "ann-2.ogg")):
        page.set_input_files(f"#file-{slot}", SAMPLES / name)
    page.click("#verify button.main")
    page.wait_for_selector("#verify .verdict.yes")


def main(report: str, address: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 900, "height": 900}, color_scheme=scheme)
            map_of(page, report)
            page.locator("section:has(#map)").screenshot(path=PICTURES / f"report-{scheme}.png")
            comparison(page, address)
            page.locator("#verify").screenshot(path=PICTURES / f"serve-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
