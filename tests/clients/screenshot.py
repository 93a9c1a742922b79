"""The picture of the page in the docs: `python -m tests.clients.screenshot BUNDLE`."""

import argparse
import tempfile
from base64 import b64decode
from pathlib import Path

from embedrt.server.settings import ModelSettings, Settings
from tests.clients.conftest import MODEL
from tests.kit.browser import browsing, find_browser
from tests.kit.pages import ROOT
from tests.kit.server import serving

PICTURE = ROOT / "docs" / "serving-page.png"


def main() -> None:
    """Compare the two texts that the page starts with, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    bundle = parser.parse_args().bundle
    browser = find_browser()
    assert browser is not None, "expected Chromium; `make .venv-browser/.ready` fetches it"
    with (
        tempfile.TemporaryDirectory() as profile,
        serving(Settings((ModelSettings(MODEL, str(bundle)),))) as server,
        browsing(browser, Path(profile), width=820, height=860) as page,
    ):
        page.open(f"{server.url}/")
        page.wait("document.getElementById('model').options.length === 1")
        page.send("Emulation.setScrollbarsHidden", hidden=True)
        for _ in range(20):  # the first ones are slower
            page.run("compare()")
        # The port of the guide, whatever the one of this run.
        page.run(
            "(() => { const code = document.getElementById('code'); "
            "code.textContent = code.textContent.replace(location.origin, 'http://127.0.0.1:8080'); "
            "document.activeElement.blur(); scrollTo(0, 0); })()"
        )
        picture = page.send("Page.captureScreenshot", format="png")["data"]
    PICTURE.write_bytes(b64decode(picture))


if __name__ == "__main__":
    main()
