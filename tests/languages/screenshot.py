"""The picture of the page in the docs: `python -m tests.languages.screenshot BUNDLE`."""

import argparse
import shutil
import tempfile
from base64 import b64decode
from pathlib import Path

from tests.kit.browser import browsing, find_browser
from tests.kit.pages import ROOT
from tests.kit.static_files import serving_files
from tests.languages.conftest import LANGUAGES

PICTURE = ROOT / "docs" / "browser-search.png"


def main() -> None:
    """Search the documents that the page starts with, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    bundle = parser.parse_args().bundle
    browser = find_browser()
    assert browser is not None, "expected Chromium; `make .venv-browser/.ready` fetches it"
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch) / "site"
        site.mkdir()
        shutil.copy(ROOT / "examples" / "browser" / "index.html", site)
        (site / "bundle").symlink_to(bundle.absolute())
        (site / "node_modules").symlink_to(LANGUAGES / "node_modules")
        with (
            serving_files(site) as url,
            browsing(browser, Path(scratch) / "profile", width=820, height=1120) as page,
        ):
            page.open(f"{url}/index.html")
            page.send("Emulation.setScrollbarsHidden", hidden=True)
            page.wait("/is ready/.test(document.getElementById('model-status').textContent)")
            page.run("document.getElementById('documents').style.minHeight = '19rem'")
            for _ in range(2):  # the first search embeds the documents too
                page.focus("query")
                page.press("Enter")
                page.wait("/query embedded/.test(document.getElementById('search-status').textContent)")
            page.run("(() => { document.activeElement.blur(); scrollTo(0, 0); })()")
            picture = page.send("Page.captureScreenshot", format="png")["data"]
    PICTURE.write_bytes(b64decode(picture))


if __name__ == "__main__":
    main()
