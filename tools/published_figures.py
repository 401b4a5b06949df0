"""Draw the figures of published studies that the documents show, into docs/images.

A document shows `images/EXPERIMENT-FIGURE.png`. `make documents` runs this; a test finds a picture
out of date.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from fedred.config import FIGURES
from fedred.plan import Plan, as_arguments, make_plan
from fedred.report.figures import made_figure, write_figure
from fedred.yaml_reading import read_yaml

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs/images"
SHOWN = re.compile(r"\bimages/([a-z0-9_]+)-([a-z_]+)\.png\)")


def shown() -> list[tuple[Plan, str, str]]:
    """Return plan, experiment and name of each figure of a published study in a document."""
    paths = sorted(ROOT.glob("results/published/*/study.yaml"))
    studies = [make_plan(read_yaml(path)) for path in paths]
    plans = {experiment: plan for plan in studies for experiment in plan.experiments}
    return [
        (plans[experiment], experiment, figure)
        for experiment, figure in dict.fromkeys(_pictures())
        if experiment in plans and figure in FIGURES
    ]


def _pictures() -> Iterator[tuple[str, str]]:
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        yield from SHOWN.findall(path.read_text(encoding="utf-8"))


def drawn(plan: Plan, experiment: str, figure: str) -> Figure:
    """Return a figure of a published study as its files give it today."""
    sources = [ROOT / source for source in as_arguments(plan.sources(experiment, figure))]
    return made_figure(figure, sources)


def main() -> None:
    """Draw all of them."""
    for plan, experiment, figure in shown():
        prefix = IMAGES / f"{experiment}-{figure}"
        write_figure(drawn(plan, experiment, figure), prefix, formats=("png",))


if __name__ == "__main__":
    main()
