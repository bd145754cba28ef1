"""What a browser would make of a page."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br"}
DRAWN = {"path", "rect", "circle"}


class Parsed(HTMLParser):
    """Tags, attributes, ids, tables and headings; raises where a tag is not closed."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.texts, self._open = [], [], [], []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in DRAWN, f"{tag} does not close itself"
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self._open[-1] != "style":
            self.texts.append(data.strip())

    def values(self, name, tag=None):
        """Values of an attribute."""
        return [value for on, key, value in self.attributes if key == name and on in (tag or on,)]

    @property
    def text(self):
        """All that can be read."""
        return "\n".join(self.texts)
