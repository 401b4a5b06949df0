"""How far a run is: a bar in a terminal, a line now and then in a log file."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedred.simulation import Record, State

log = logging.getLogger(__name__)
LINES = 10


class RunProgress:
    """Show the round, the last accuracy measured and the number of clients excluded.

    Args:
        rounds: number of rounds of the run.
        console: where the bar is drawn; without a terminal about ten lines are logged instead.
    """

    def __init__(self, rounds: int, console: Console) -> None:
        self.rounds = rounds
        self.accuracy = "accuracy not measured yet"
        self.terminal = console.is_terminal
        self.bar = Progress(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.terminal,
        )
        self.task = self.bar.add_task("rounds", total=rounds, status="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def update(self, state: State, record: Record) -> None:
        """Take note of one finished round."""
        measured = record.summary["accuracy"]
        if not record.summary["model_finite"]:
            self.accuracy = "the model is not finite"
        elif not math.isnan(measured):
            self.accuracy = f"accuracy {measured:.3f}"
        status = f"{self.accuracy}, excluded {int(state.excluded.sum())}"
        self.bar.update(self.task, completed=state.round, status=status)
        due = state.round % max(1, self.rounds // LINES) == 0 or state.round == self.rounds
        if due and not self.terminal:
            log.info("round %d of %d: %s", state.round, self.rounds, status)


@contextmanager
def work_bar(total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """Yield what is told the work done; it draws a bar in a terminal.

    Args:
        total: all the work.
        console: where the bar is drawn.
    """
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("reconstructing", total=total)
        yield lambda done: bar.update(task, advance=done)
