"""Texts from outside in each format: a reader of that format finds the text that was given."""

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest
from docutils.core import publish_doctree
from docutils.nodes import Text
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from fedred.config import FIGURES, TABLES
from fedred.errors import printable
from fedred.plan import in_words
from fedred.report.escapes import (
    in_csv,
    in_html,
    in_latex,
    in_markdown,
    in_rst,
    latex_needs,
    on_terminal,
)

ANY = st.characters(exclude_categories=())
"""All of Unicode, with control characters and halves of surrogate pairs."""


def texts(*own):
    """Return texts of what a format treats as its own, and of anything."""
    return st.lists(st.one_of(st.sampled_from(own), ANY), max_size=15).map("".join)


class Reader(HTMLParser):
    """What stands in the text and in the attributes of a page."""

    def __init__(self, page):
        super().__init__()
        self.text, self.attributes = "", []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, attrs))

    def handle_data(self, data):
        self.text += data


@given(texts(*"<>&\"'/=;#!-", "&lt;", "<b>", "<!--", "]]>", "\u202e"))
def test_html_holds_the_text_in_an_element_and_in_an_attribute(text):
    read = Reader(f'<p title="{in_html(text)}">{in_html(text)}</p>')
    assert read.text == printable(text)
    assert read.attributes == [("p", [("title", printable(text))])]


MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def inline(source, place):
    """Return the tokens of a heading or of the second cell of a table."""
    tokens = [token for token in MARKDOWN.parse(source) if token.type == "inline"]
    return tokens[place].children or []


@pytest.mark.parametrize(
    ("form", "place"),
    [("### {}\n\nafter", 0), ("| a | b |\n| --- | ---: |\n| c | {} |\n", 3)],
    ids=["heading", "cell"],
)
@given(
    text=texts(
        *"\\|*_<>[]()`~#$&!:- ", "&lt;", "~~", "**", "[x](y)", "<!--", "www.a.b", "http://a.b", "1."
    )
)
def test_markdown_holds_the_text(form, place, text):
    found = inline(form.format(in_markdown(text)), place)
    assert {token.type for token in found} <= {"text"}
    assert "".join(token.content for token in found) == printable(text)


@pytest.mark.parametrize(
    "address", ["http://a.b/c", "https://a.b", "ftp://a", "www.a.b", "WWW.a.b"]
)
def test_markdown_makes_no_links_of_addresses(address):
    assert not re.search(r"(www\.|(https?|ftp)://)", in_markdown(address), re.IGNORECASE)


COMMANDS = {
    "textbackslash": "\\",
    "textasciitilde": "~",
    "textasciicircum": "^",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
    "textquotedbl": '"',
    "textasciigrave": "`",
    "ldots": "…",
}
LIGATURES = {"---": "—", "--": "\N{EN DASH}", "``": "“", "''": "”", ",,": "„", "<<": "«", ">>": "»"}
LIGATURES |= {"?`": "¿", "!`": "¡"}
TOKEN = re.compile(
    r"\\(?P<command>[a-zA-Z]+)\{\}|\\(?P<letter>[^a-zA-Z])|(?P<pm>\$\\pm\$)|\{(?P<group>[^{}\\]?)\}"
    r"|(?P<ligature>---|--|``|''|,,|<<|>>|\?`|!`)|(?P<blanks> +)|(?P<plain>[^\\{}$&#^_~%\[*])",
    re.DOTALL,
)


def typeset(source):
    """Return what LaTeX prints, by the rules of TeX; fail at what is no plain text."""
    printed, place = "", 0
    while place < len(source):
        token = TOKEN.match(source, place)
        assert token, f"markup at {source[place:]!r}"
        kind = token.lastgroup
        value = token[kind]
        words = {"command": COMMANDS, "ligature": LIGATURES, "pm": {r"$\pm$": "±"}}
        if kind == "blanks":
            value = " " if place else ""
        printed += words.get(kind, {}).get(value, value)
        place = token.end()
    return printed


@given(texts(*"\\{}$&#^_~%\"'`-,<>?!|[]* \N{EN DASH}—±…", "--", "---", "?`", "''", ",,", "  "))
@example("--\N{EN DASH}-— ,,, a  b")
@example("[1]* first in a row")
def test_latex_prints_the_text(text):
    assert typeset(in_latex(text)) == printable(text)


def test_latex_tells_what_its_letters_need():
    assert latex_needs(in_latex("plain, it's")) == []
    assert latex_needs(in_latex('"`')) == [
        r"\usepackage[T1]{fontenc}",
        r"\usepackage{textcomp}",
    ]
    (font,) = latex_needs(in_latex("猫"))
    assert "lualatex" in font


def rst(source):
    """Return a document, any message of docutils being an error."""
    strict = {"report_level": 1, "halt_level": 1, "warning_stream": io.StringIO()}
    return publish_doctree(source, settings_overrides=strict)


@given(texts(*"_*`|\\<>:&[]() .", "``", "|x|", "x_", "`a`_", "__", ":a:`b`", "http://a.b", "::"))
@example("my_photos_")
@example("|x| *a* `b`_ <i>&")
def test_rst_holds_the_text(text):
    (paragraph,) = rst(f"Settings: {in_rst(text)}.").children
    assert all(isinstance(node, Text) for node in paragraph.children)
    assert paragraph.astext() == f"Settings: {printable(text)}."


HOSTILE = "data: images |x| *a* `b`_ <i>& my_photos_; seeds: 0"
SHOWN = [("figure", name) for name in FIGURES] + [("table", name) for name in TABLES]


@pytest.mark.parametrize(("kind", "name"), SHOWN)
def test_captions_hold_the_settings_and_nothing_is_wrong_in_them(kind, name):
    template = jinja2.Template(Path("workflow/report", f"{kind}.rst").read_text())
    snakemake = {
        "wildcards": {kind: name, "experiment": "odd_"},
        "params": {
            "described": in_rst(HOSTILE),
            "prefix": f"results/{kind}s/odd_-{name}",
            "offline": False,
            "sources": ["a", "b"],
        },
    }
    document = rst(template.render(snakemake=snakemake))
    assert f"Settings: {HOSTILE}." in document.astext()
    assert not [node for node in document.findall() if node.tagname in ("problematic", "reference")]


WIDE = "\uff1d\uff0b\uff0d\uff20"
"""The letters = + - @ as wide as a Chinese one; spreadsheets read them alike."""


@given(texts(*"=+-@\t\r\n'\",;", "=1+1", *WIDE))
def test_csv_holds_the_text_and_no_formula(text):
    file = io.StringIO()
    csv.writer(file).writerow([in_csv(text)])
    ((cell,),) = csv.reader(io.StringIO(file.getvalue()))
    assert cell.removeprefix("'") == printable(text)
    assert not cell.startswith(("=", "+", "-", "@", *"\t\r\n", *WIDE))


@given(texts(*"[]\\/:", "[red]", "[/]", ":cat:", "\x1b[31m", "\x1b]0;x\x07", "\u202e", "\x9b"))
def test_the_terminal_shows_the_text_and_obeys_nothing(text):
    console = Console(file=io.StringIO(), record=True, force_terminal=True, color_system=None)
    console.print(on_terminal(text), soft_wrap=True)
    assert console.export_text(styles=True).removesuffix("\n") == printable(text)


@given(st.lists(st.text("ab_", min_size=1, max_size=6), min_size=2, max_size=2, unique=True))
def test_two_names_of_experiments_have_two_headings(names):
    headings = [in_words(name) for name in names]
    assert headings[0] != headings[1]
    assert all(heading == heading.strip() for heading in headings)


def test_names_become_words():
    assert in_words("accuracy_over_rounds") == "Accuracy over rounds"
    assert [in_words(name) for name in ("odd_", "_odd", "a__b", "_")] == [
        "Odd_",
        "_odd",
        "A__b",
        "_",
    ]
