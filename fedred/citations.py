"""The papers of the methods that a configuration uses, as BibTeX."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from fedred.config import FAMILIES, resolve
from fedred.papers import Paper
from fedred.plan import make_plan


def papers_of(method: Any) -> Iterator[Paper]:
    """Yield the papers of a method and of the methods inside it."""
    yield from getattr(method, "papers", ())
    for field in fields(method):
        value = getattr(method, field.name)
        if is_dataclass(value):
            yield from papers_of(value)


def cited_papers(raw: Mapping[str, Any]) -> list[Paper]:
    """Return each paper once, sorted by its key, of a configuration of the workflow or of one run.

    Data sets, partitions, networks, local training, attacks and defenses count, with the methods
    inside them (the aggregator of `fedredefense`, for instance), and nothing that is not used.

    Raises:
        UserError: for every mistake in the configuration.
    """
    if "experiments" in raw:
        runs = [resolve(settings) for settings in make_plan(raw).runs.values()]
    else:
        runs = [resolve(raw)]
    found = {
        paper for run in runs for part in (*FAMILIES, "training") for paper in _papers(run, part)
    }
    return sorted(found, key=lambda paper: paper.key)


def _papers(run: Any, part: str) -> Iterator[Paper]:
    return papers_of(getattr(run, part).build())


def bibtex(papers: Iterable[Paper]) -> str:
    """Return BibTeX entries, an empty line between two."""
    return "\n\n".join(paper.bibtex for paper in papers) + "\n"
