"""Put the tables of published studies into the documents, between marks in comments.

`<!-- table STUDY EXPERIMENT TABLE [NUMBER] -->` begins a place, `<!-- end -->` ends it; NUMBER picks one
block of a table that has several, from 1. `make documents` runs this; a test finds a place out of date.
"""

import re
import tempfile
from functools import cache
from pathlib import Path

from fedred.plan import as_arguments, make_plan
from fedred.report.tables import made_table, write_table
from fedred.yaml_reading import read_yaml

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "docs/results.md", "docs/limits.md")
PLACE = re.compile(r"(<!-- table (\w+) (\w+) (\w+)(?: (\d+))? -->\n).*?(<!-- end -->)", re.DOTALL)

HEADING = re.compile(r"^### (.*)$", re.MULTILINE)
"""Of a block; set bold in a document, which has headings of its own."""


def refreshed(text: str) -> str:
    """Return a document with the tables of today's published files."""
    return PLACE.sub(_filled, text)


def _filled(place: "re.Match[str]") -> str:
    begin, study, experiment, table, number, end = place.groups()
    blocks = table_blocks(study, experiment, table)
    chosen = [dict(enumerate(blocks, 1))[int(number)]] if number else blocks
    return "\n\n".join([begin.rstrip(), *chosen, end])


@cache
def table_blocks(study: str, experiment: str, table: str) -> list[str]:
    """Return a table of a published study in Markdown, each of its blocks with its heading."""
    plan = make_plan(read_yaml(ROOT / "results/published" / study / "study.yaml"))
    sources = [ROOT / source for source in as_arguments(plan.sources(experiment, table))]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "table"
        write_table(made_table(table, sources), table, made)
        text = made.with_suffix(".md").read_text(encoding="utf-8")
    return [block.strip() for block in HEADING.sub(r"\0**\1**", text).split("\0")[1:]]


def main() -> None:
    """Refresh all documents."""
    for name in DOCUMENTS:
        path = ROOT / name
        if path.exists():
            text = path.read_text(encoding="utf-8")
            path.write_text(refreshed(text), encoding="utf-8")


if __name__ == "__main__":
    main()
