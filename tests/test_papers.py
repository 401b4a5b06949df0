"""Papers: one key each, BibTeX that a parser can read."""

import re

from fedred.config import FAMILIES
from fedred.local_training import LocalTraining
from fedred.papers import Paper

METHODS = [method for family in FAMILIES.values() for method in family.values()]
PAPERS = {paper for method in (*METHODS, LocalTraining) for paper in method.papers}


def test_every_paper_has_its_own_key():
    keys = [paper.key for paper in PAPERS]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[a-z]+(19|20)\d\d[a-z]+", key) for key in keys)


def test_bibtex_is_one_balanced_entry_with_all_fields():
    for paper in PAPERS:
        text = paper.bibtex
        assert text.count("{") == text.count("}"), text
        assert re.match(rf"@(inproceedings|article|misc)\{{{paper.key},\n", text)
        for field in ("author", "title", "year"):
            assert f"  {field} = {{" in text
        assert str(paper.year) in text
        assert paper.authors.split(",")[0] in text


def test_the_short_name_tells_the_first_author_and_the_year():
    for paper in PAPERS:
        assert str(paper.year) in paper.short, paper.short
        surname = paper.authors.split(",")[0].split()[-1]
        assert surname in paper.short, paper.short


def test_an_entry_by_hand():
    paper = Paper("Doe, 1999", "Doe, Jane", "Two-Faced Clients", "Journal of X", 1999, "article")
    assert paper.bibtex == (
        "@article{doe1999two,\n"
        "  author = {Doe, Jane},\n"
        "  title = {{Two-Faced Clients}},\n"
        "  journal = {Journal of X},\n"
        "  year = {1999},\n"
        "}"
    )
