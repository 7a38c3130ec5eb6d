"""A report's page as a browser reads it, and what it must not let through."""

from __future__ import annotations

from html.parser import HTMLParser

ATTACK = "<script>alert('x')</script> & \"quotes\" ``` | <img src=x onerror=alert(1)> $x_1$ &lt;"


class Page(HTMLParser):
    """Tags with their attributes, and whether every tag is closed."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
