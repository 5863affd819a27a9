"""Tables and calls of the command line."""

from html.parser import HTMLParser

import numpy as np
import pytest

from kan_fast import cli


def houses(n=300, seed=0):
    pandas = pytest.importorskip("pandas")
    random = np.random.default_rng(seed)
    table = pandas.DataFrame(
        {
            "size m2": random.uniform(30, 200, n),
            "rooms": random.integers(1, 7, n),
            "town": random.choice(["Ash", "Birch", "<b>Cedar</b>"], n),
            "new": random.choice([True, False], n),
        }
    )
    table["price"] = 1000 * table["size m2"] + 50_000 * (table.town == "Birch") + 9_000 * table.new
    return table


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


class Page(HTMLParser):
    """Tags, addresses and text of a page; fails on tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.words = [], set(), [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
