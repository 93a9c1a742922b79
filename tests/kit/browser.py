"""A headless Chromium, driven by the DevTools protocol through a pipe."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import IO, Any

from tests.kit.pages import ROOT

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# Seconds that a browser may run.
_LONGEST = 500
UNPACKED = Path(os.environ.get("EMBEDRT_BROWSER", ROOT / ".venv-browser")).absolute() / "root" / "usr"

CONTRAST = """(() => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3)
      .map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const one = document.getElementById('%s');
  let behind = one;
  while (/, 0\\)$/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
  const [a, b] = [getComputedStyle(one).color, getComputedStyle(behind).backgroundColor].map(light);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
})()"""
"""WCAG's contrast of the text of an element with what is behind it: an expression, `%` the element's id."""


def find_browser() -> Path | None:
    """The browser of this machine, or the one that `browser.sh` has unpacked."""
    for name in NAMES:
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    unpacked = UNPACKED / "lib" / "chromium" / "chromium-headless-shell"
    return unpacked if unpacked.is_file() else None


@dataclass
class Page:
    """A tab of the browser.

    Attributes:
        events: What the tab has reported: messages of its console, requests, failures.
    """

    reading: IO[bytes]
    writing: IO[bytes]
    session: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    calls: int = 0

    def send(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol, and wait for its result."""
        self.calls += 1
        message = {"id": self.calls, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        self.writing.write(json.dumps(message).encode() + b"\0")
        self.writing.flush()
        while (reply := self._read()).get("id") != self.calls:
            self.events.append(reply)
        assert "error" not in reply, f"{method}: {reply['error']}"
        return reply["result"]

    def _read(self) -> dict[str, Any]:
        parts = []
        while (byte := self.reading.read(1)) != b"\0":
            assert byte, "the browser has ended"
            parts.append(byte)
        message: dict[str, Any] = json.loads(b"".join(parts))
        return message

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is awaited."""
        result = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in result, f"{script}\n{json.dumps(result, indent=1)}"
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true: the page's own frames look, for at most a minute."""
        script = """new Promise((done, fail) => {
            const last = performance.now() + 60000;
            const look = () => {
                if (%s) done(true);
                else if (performance.now() > last) fail("waited in vain");
                else setTimeout(look, 5);
            };
            look();
        })"""
        self.run(script % condition)

    def open(self, url: str) -> None:
        """Load a page, and wait for its models."""
        self.send("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def focus(self, element: str) -> None:
        """Put the focus on an element, its text selected."""
        self.run(f"(() => {{ const one = document.getElementById('{element}'); one.focus(); one.select?.(); }})()")

    def type(self, text: str) -> None:
        """Type text where the focus is."""
        self.send("Input.insertText", text=text)

    def press(self, name: str, modifiers: int = 0) -> None:
        """Press a key: Enter, Tab, Space, an arrow. Modifiers: 2 is Control, 8 is Shift."""
        codes = {"Enter": 13, "Tab": 9, "Space": 32, "ArrowDown": 40, "ArrowRight": 39}
        texts = {"Enter": "\r", "Space": " "}
        event = {
            "key": " " if name == "Space" else name,
            "code": name,
            "windowsVirtualKeyCode": codes[name],
            "modifiers": modifiers,
        }
        written = {"text": texts[name]} if name in texts and not modifiers else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **event, **written)
        self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    def click(self, element: str) -> None:
        """Click on the middle of an element with the mouse."""
        box = self.run(
            f"(() => {{ const one = document.getElementById('{element}'); one.scrollIntoView(); "
            "const {x, y, width, height} = one.getBoundingClientRect(); return [x + width / 2, y + height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def text(self, element: str) -> str:
        """The visible text of an element."""
        return str(self.run(f"document.getElementById('{element}').innerText"))


@contextmanager
def browsing(browser: Path, profile: Path, *, width: int = 960, height: int = 860) -> Iterator[Page]:
    """A browser with one empty tab."""
    libraries = UNPACKED / "lib" / "x86_64-linux-gnu"
    environment = {
        **os.environ,
        "HOME": str(profile),
        "LD_LIBRARY_PATH": f"{libraries}:{libraries / 'pulseaudio'}",
        "DBUS_SESSION_BUS_ADDRESS": "disabled:",
    }
    (to_browser, writing), (reading, from_browser) = os.pipe(), os.pipe()
    shell = 'exec "$0" "$@" 3<&"$TO" 4>&"$FROM"'  # the protocol's pipes are descriptors 3 and 4
    arguments = [
        str(browser),
        "--headless",
        "--no-sandbox",  # a container's root has none
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
        f"--window-size={width},{height}",
        "about:blank",
    ]
    process = subprocess.Popen(
        ["/bin/bash", "-c", shell, *arguments],
        env={**environment, "TO": str(to_browser), "FROM": str(from_browser)},
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    hanging = Timer(_LONGEST, process.kill)  # the pipe then ends, and with it the test
    hanging.start()
    with os.fdopen(reading, "rb") as received, os.fdopen(writing, "wb") as sent:
        try:
            page = Page(received, sent)
            targets = page.send("Target.getTargets")["targetInfos"]
            tab = next(one["targetId"] for one in targets if one["type"] == "page")
            page.session = page.send("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                page.send(f"{domain}.enable")
            yield page
            page.session = None
            page.send("Browser.close")
        finally:
            hanging.cancel()
            process.kill()
            process.wait(30)
