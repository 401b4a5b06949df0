"""Published values beside those of runs."""

import numpy as np
import pytest
from run_folders import settings, write_run

from fedred.errors import UserError
from fedred.plan import make_plan
from fedred.reference import REFERENCE, references
from fedred.report.runs import load_runs
from fedred.report.tables import made_table, write_table

PUBLISHED = {"ADACC": 66.43, "AFPR": 20.80, "AFNR": 66.40, "AAR": 332.0}


def runs_of(folder, finals):
    fixed = settings("min_max", "fltrust", 0, dataset__name="fashion_mnist", rounds=500)
    return [
        write_run(folder / f"run-{seed}", {**fixed, "seed": seed}, final=final)
        for seed, final in enumerate(finals)
    ]


def test_the_shipped_values_agree_with_themselves():
    (erratum,) = (one for one in references() if one.defense == "fltrust")
    assert erratum.values == PUBLISHED
    flagged_wrongly = 0.28 * erratum.values["AFNR"] + 0.72 * erratum.values["AFPR"]
    assert flagged_wrongly == pytest.approx(100 - erratum.values["ADACC"], abs=0.01)
    rounds = erratum.settings["rounds"]
    assert erratum.values["AAR"] == pytest.approx(rounds * erratum.values["AFNR"] / 100)


def test_reference_by_definition(tmp_path):
    finals = [{"ADACC": 0.6, "AFPR": 0.2, "AFNR": 0.5, "AAR": 300.0}]
    finals.append({"ADACC": 0.7, "AFPR": 0.3, "AFNR": 0.7, "AAR": 340.0})
    folders = runs_of(tmp_path, finals)
    frame = made_table("reference", folders).set_index("metric")
    assert dict(frame["published"]) == PUBLISHED
    assert frame.loc["ADACC", "mean"] == pytest.approx(65.0)
    assert frame.loc["AAR", "mean"] == pytest.approx(320.0)
    assert frame.loc["ADACC", "difference"] == pytest.approx(65.0 - 66.43)
    assert frame.loc["AAR", "ci95"] == pytest.approx(12.7062 * np.std([300, 340], ddof=1) / 2**0.5)
    assert set(frame["n"]) == {2}
    clients = load_runs(folders)[0].settings["partition"]["clients"]
    assert f"partition.clients {clients}, not 100" in frame.loc["AAR", "protocol"]
    assert "rounds" not in frame.loc["AAR", "protocol"]
    write_table(frame.reset_index(), "reference", tmp_path / "table")
    text = (tmp_path / "table.md").read_text()
    assert "with the authors' erratum" in text
    assert "66.43" in text


def test_runs_that_nobody_published_are_told(tmp_path):
    folder = write_run(tmp_path / "run", settings("mpaf", "krum", 0))
    with pytest.raises(UserError, match="no published value for any of these runs"):
        made_table("reference", [folder])


def test_experiments_get_the_table_where_there_is_a_value():
    base = {"dataset": "cifar10", "attack": "scaling", "malicious": 28, "defense": "fedredefense"}
    plan = make_plan({"experiments": {"known": {"base": base}, "unknown": {}}})
    assert "reference" in plan.tables["known"]
    assert "reference" not in plan.tables["unknown"]


@pytest.mark.parametrize(
    ("right", "wrong", "sentence"),
    [
        ("defense: fltrust\n", "defense: fltrustt\n", "fltrustt"),
        ("ADACC: 66.43", "ADAC: 66.43", "ADAC"),
        ("ADACC: 66.43", "ADACC: high", "high"),
        ("    note:", "    remark:", "remark"),
        ("    dataset: cifar10\n", "", "dataset"),
    ],
)
def test_mistakes_in_the_file_are_told(right, wrong, sentence, tmp_path):
    path = tmp_path / "reference.yaml"
    path.write_text(REFERENCE.read_text().replace(right, wrong))
    with pytest.raises(UserError) as told:
        references(path)
    assert sentence in str(told.value)
    assert str(told.value).startswith("reference.yaml")
