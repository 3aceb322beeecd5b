"""A page read as text, and what every page has to be."""

import base64
import hashlib
import re
from html.parser import HTMLParser

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
    # One script, which is the only one that the page lets run.
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.findall(r"script-src ([^;\"]*)\"", source) == [f"'sha256-{digest}'"]
    assert page.tags.count("script") == 1
    assert all(a.startswith(("#", "figures/")) or a == "data:," for a in page.addresses)
    assert "@import" not in source
    assert "url(http" not in source
    shown = " ".join(" ".join(page.text).split())
    assert "nan" not in shown.replace("the loss was nan", "").split()
    assert "None" not in shown
    return page, shown
