"""A page read as text, what every page has to be, and a browser that is told what to do with it."""

import base64
import fcntl
import hashlib
import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-sync", "--disable-background-networking", "--disable-component-update"),
]

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """What a browser would find: tags in balance, addresses, text outside of style."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.addresses, self.text = [], [], [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                self.addresses.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text.append(data)


def check(source):
    page = Page(source)
    assert not {"iframe", "object", "embed", "img"} & {*page.tags}
    # Its own script is the only one that the page lets run.
    scripts = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    made = [hashlib.sha256(script.encode()).digest() for script in scripts]
    allowed = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in made]
    assert re.findall(r"script-src ([^;\"]*)\"", source) == [" ".join(allowed)]
    assert page.tags.count("script") == len(scripts) == 1
    assert all(a.startswith(("#", "figures/")) or a == "data:," for a in page.addresses)
    assert "@import" not in source
    assert "url(http" not in source
    shown = " ".join(" ".join(page.text).split())
    assert "nan" not in shown.replace("the loss was nan", "").split()
    assert "None" not in shown
    return page, shown


class Browser:
    """A window of a browser with a page, for the protocol that real input comes by."""

    def __init__(self, page, profile, width, *, touch=False, dark=False):
        self.complaints, self._sent, self._session = [], 0, {}
        theirs, self._commands = self._pipe()
        self._answers, back = self._pipe()
        started = f'exec "$@" --remote-debugging-pipe 3<&{theirs} 4>&{back}'
        words = [*FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", started, "bash", CHROMIUM, *words],
            pass_fds=(theirs, back),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(back)
        self._waiting = b""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": touch}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.send("Emulation.setTouchEmulationEnabled", enabled=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=page.as_uri())
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._session = {}
        self.send("Browser.close")
        self._process.wait(30)
        os.close(self._commands)
        os.close(self._answers)

    def send(self, method, **parameters):
        """What the browser answers to a command."""
        self._sent += 1
        command = {"id": self._sent, "method": method, "params": parameters, **self._session}
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (answer := self._read()).get("id") != self._sent:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def value(self, script):
        """What an expression is worth in the page."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def move(self, x, y):
        """The mouse, to a place in the window."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def tap(self, x, y):
        """A finger at a place in the window."""
        point = {"x": x, "y": y}
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[point])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key):
        """A key by the name that pages know it by, down and up."""
        for way in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=way, key=key)

    def _read(self):
        while b"\0" not in self._waiting:
            more = os.read(self._answers, 1 << 16)
            assert more, "the browser is gone"
            self._waiting += more
        message, _, self._waiting = self._waiting.partition(b"\0")
        found = json.loads(message)
        complaint = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        if found.get("method") in complaint:
            self.complaints.append(found["params"])
        return found

    @staticmethod
    def _pipe():
        """Both ends, with numbers above those that the browser knows its own by: 3 and 4."""
        ends = os.pipe()
        moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
        for end in ends:
            os.close(end)
        return moved
