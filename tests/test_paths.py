"""Paths of the command: taken literally whatever they hold, checked before any work, never an input."""

import json
import os
import shutil
import socket
import subprocess
import typing
from pathlib import Path

import pandas as pd
import pytest
import typer
import yaml
from command import fedred
from hypothesis import given
from hypothesis import strategies as st
from in_process import called
from matplotlib.figure import Figure
from run_folders import settings, write_run
from small import DEFENSE, SETTINGS

from fedred import cli
from fedred.datasets import data_root, load_dataset
from fedred.errors import UserError, WriteError
from fedred.files import folder_written_whole, remove_unfinished, write_tensors, written_whole
from fedred.partition import load_partition
from fedred.paths import expanded, opened, require_free, require_outputs, with_endings
from fedred.publish import publish
from fedred.report.runs import load_runs

ODD = {
    "space": "a b",
    "colon": "lr:0.1",
    "address": "s3:",
    "dollar": "$HOME",
    "quotes": "'q\"`;|&",
    "line break": "line\nbreak",
    "unicode": "ünï日本",
    "dash": "-dash",
    "long": "n" * 240,
    "no UTF-8": os.fsdecode(b"\xff\xfe"),
    "formats": "%s%d{x}{0}",
    "patterns": "#?*[a]",
    "markup": ":smile:[red]",
    "unknown user": "~nobody of this name",
}
PARTITION = "{name: iid, clients: 3}"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder, with relative paths: absolute ones hide what libraries make of a name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDRED_DATA", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run that is made up, a data set, a partition of it and settings."""
    folder = tmp_path_factory.mktemp("made")
    write_run(folder / "run", settings("min_max", "krum"))
    assert called("data", "digits", "--out", folder / "data") == 0
    options = ("--dataset", folder / "data", "--out", folder / "part.safetensors")
    assert called("partition", PARTITION, *options) == 0
    (folder / "one.yaml").write_text(yaml.safe_dump({**SETTINGS, "rounds": 1}))
    return folder


def tree(folder):
    """Return all that lies below a folder, with the content of files."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def path_parameters():
    """Yield command, name and typer's description of every parameter that is a path."""
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__
        hints = typing.get_type_hints(command.callback, include_extras=True)
        for parameter, hint in hints.items():
            if "Path" in str(hint):
                yield name, parameter, hint


PARAMETERS = list(path_parameters())


def described(hint):
    """Return what typer is told of a parameter, inside of `| None` or not."""
    return next(found for found in hint.__metadata__ if hasattr(found, "parser"))


def test_every_command_that_names_files_is_looked_at():
    named = {command for command, _, _ in PARAMETERS}
    assert named == {
        command.name or command.callback.__name__ for command in cli.app.registered_commands
    } - {"list", "schema"}


@pytest.mark.parametrize(("command", "parameter", "hint"), PARAMETERS)
def test_every_path_of_every_command_refuses_nothing_and_knows_home(
    command, parameter, hint, here, monkeypatch, capsys
):
    taken = described(hint).parser
    monkeypatch.setenv("HOME", "/home/me")
    assert taken("~/x") == Path("/home/me/x")
    assert taken("./~/x") == Path("~/x")
    with pytest.raises(typer.BadParameter, match="it is empty"):
        taken("")
    for name in ODD.values():
        assert taken(f"{name}/x") == Path(name) / "x"
    option = isinstance(described(hint), typer.models.OptionInfo)
    word = f"--{parameter}=" if option else ""
    first = ["min_max"] if command in ("table", "figure") and not option else []
    assert called(command, *first, word) == 2
    said = " ".join(capsys.readouterr().err.replace("│", "").split())
    assert parameter in said
    assert "it is empty: name a file or a folder" in said
    assert not tree(here)


def test_home_is_expanded_where_a_variable_names_a_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("FEDRED_DATA", "~/images")
    assert data_root() == Path("/home/me/images")
    assert data_root(Path("~")) == Path("~"), "the command has expanded its own before"
    assert expanded("~nobody of this name/x") == Path("~nobody of this name/x")


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_odd_names_are_taken_literally(name, here, made, capsys):
    data, part = Path(name, name), Path(name, "part.safetensors")
    assert called("data", "digits", f"--out={data}") == 0
    assert called("partition", PARTITION, f"--dataset={data}", f"--out={part}") == 0
    assert load_partition(part).dataset_checksum == load_dataset(data).checksum
    run = Path(name, "run")
    shutil.copytree(made / "run", run)
    assert called("table", f"--out={name}/{name}", "performance", "--", run) == 0
    assert called("figure", f"--out={name}/f.png", "partition", "--", part) == 0
    assert called("plan", f"--measured={run}", "config.yaml") == 2  # no such file
    shutil.copy(made / "one.yaml", Path(name, "one.yaml"))
    assert called("cite", "--", Path(name, "one.yaml")) == 0
    assert called("table", "cost", "--", run / "run.json") == 0
    tables = {f"{name}.{ending}" for ending in ("csv", "html", "md", "tex")}
    assert {path.name for path in here.iterdir()} == {name}
    found = {path.name for path in Path(name).iterdir()}
    assert found == {name, "part.safetensors", "part.png", "run", "f.png", "one.yaml"} | tables
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_with_odd_names_everywhere_is_finished_and_read_again(here):
    name = os.fsdecode(b"-lr:0.1 $x\n\xff")
    folder, run = Path(name), Path(name, name)
    folder.mkdir()
    record = {**SETTINGS, "record": [1], "rounds": 1, "attack": "min_max", "defense": DEFENSE}
    (folder / "one").write_text(yaml.safe_dump(record))
    assert called("data", "digits", f"--out={name}/data") == 0
    data, part = (f"--{kind}={name}/{kind}" for kind in ("dataset", "partition"))
    (folder / "data").rename(folder / "dataset")
    drawn = json.dumps(SETTINGS["partition"])
    assert called("partition", drawn, data, f"--out={name}/partition") == 0
    assert called("run", data, part, f"--out={run}", "--", folder / "one") == 0
    (read,) = load_runs([run])
    assert read.name == "-lr:0.1 $x\\n\\udcff", "as it may be printed"
    assert len(read.rounds) == 1
    assert len(read.clients) == 8
    recorded = ("--", run / "updates/round-0001.safetensors")
    judged, images = f"--out={name}/judged", f"--images={name}/images"
    assert called("reconstruct", judged, images, "--iterations=2", *recorded) == 0
    assert called("figure", f"--out={name}/f.png", "images", "--", folder / "images") == 0
    assert called("table", "auroc", "--", folder / "judged") == 0
    assert {path.name for path in here.iterdir()} == {name}


def test_a_name_that_cannot_be_printed_stands_in_one_line_of_the_log(here):
    done = fedred("data", "digits", "--out", os.fsdecode(b"line\nbreak\xff"))
    assert done.returncode == 0
    classes, line = done.stderr.splitlines()
    assert classes.startswith("classes: ")
    assert line.startswith("line\\nbreak\\udcff: ")


@pytest.mark.parametrize("out", [".", "sub/.."])
def test_a_run_is_called_like_the_folder_that_it_lies_in(here, made, out):
    (here / "sub").mkdir()
    assert called("run", made / "one.yaml", f"--out={out}") == 0
    assert json.loads(Path("run.json").read_text())["run"] == here.name


def test_standard_input_is_a_dash_and_a_file_of_that_name_is_not(here, capsys):
    Path("-").write_text("rounds: none")
    assert called("run", "./-", "--out=x") == 2
    assert "rounds is 'none'" in capsys.readouterr().err


def test_files_of_the_user_are_not_taken_for_those_of_a_killed_run(here):
    mine = [".mywork.tmp", ".run.json.tmp", ".run.json.0123abcd.fedred-tmp.old"]
    mine += [".other.0123abcd.fedred-tmp", ".run.json.17.fedred-tmp", "0123abcd.fedred-tmp"]
    for name in mine:
        Path(name).mkdir()
        Path(name, "work").touch()
    Path(".notes.tmp").touch()
    Path(".run.json.01234567.fedred-tmp").touch()  # a file
    Path(".rounds.csv.0123abcd.fedred-tmp").symlink_to(".mywork.tmp")
    before = tree(here)
    torn = Path(".run.json.0123abcd.fedred-tmp")
    torn.mkdir()
    (torn / "run.json").touch()
    remove_unfinished([Path("run.json"), Path("rounds.csv"), Path("missing/clients.parquet")])
    assert tree(here) == before


def test_what_a_kill_leaves_is_what_the_next_one_removes(here):
    name = "n" * 255
    with written_whole(Path(name)) as temporary:
        left = temporary.parent
        shutil.copytree(left, "left")
    Path(name).unlink()
    assert tree(here).keys() == {Path("left"), Path("left", name)}
    shutil.move("left", left)
    remove_unfinished([Path(name)])
    assert not tree(here)


def test_a_checkpoint_that_is_the_users_stays(here, made, caplog):
    assert called("run", made / "one.yaml", "--out=x") == 0
    Path("x/checkpoint.safetensors").write_bytes(b"mine")
    assert called("run", made / "one.yaml", "--out=x") == 0
    assert "nothing to do" in caplog.text
    assert Path("x/checkpoint.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("length", [200, 240, 255])
def test_a_name_that_the_system_takes_is_taken(here, length):
    path = Path("n" * length)
    require_outputs([path])
    with written_whole(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    with folder_written_whole(Path("m" * length)) as temporary:
        (temporary / "file").touch()
    assert tree(Path("m" * length)) == {Path("file"): b""}
    assert Path("m" * length).stat().st_mode & 0o777 == 0o777 & ~umask()


def umask():
    now = os.umask(0)
    os.umask(now)
    return now


IMPOSSIBLE = {
    "file": ("file/x", "file is a file: name a folder"),
    "folder": ("folder", "folder is a folder: name a file"),
    "long": ("new/" + "n" * 256, "is longer than the system takes"),
    "long folder": ("n" * 256 + "/x", "is longer than the system takes"),
    "very long": ("/".join(["n" * 250] * 20), "is longer than the system takes"),
    "no end": ("nowhere/x", "nowhere is a link that leads nowhere"),
    "pipe": ("pipe", "pipe is a device or a pipe"),
    "device": ("/dev/null", "/dev/null is a device or a pipe"),
    "below a device": ("/dev/null/x", "/dev/null is a device or a pipe"),
}


@pytest.mark.parametrize(("out", "sentence"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
@pytest.mark.parametrize("command", ["data", "partition", "run", "reconstruct", "table", "figure"])
def test_a_place_that_cannot_be_is_refused_before_any_work(
    command, out, sentence, here, made, capsys
):
    Path("file").touch()
    Path("folder").mkdir()
    Path("nowhere").symlink_to("gone")
    os.mkfifo("pipe")
    before = tree(here)
    words = {
        "data": ("data", "digits"),
        "partition": ("partition", PARTITION, f"--dataset={made}/data"),
        "run": ("run", made / "one.yaml"),
        "reconstruct": ("reconstruct", "file"),
        "table": ("table", "performance", made / "run"),
        "figure": ("figure", "accuracy_over_rounds", made / "run"),
    }
    if command == "run" and out == "folder":
        out, sentence = "file", "file is a file: name a folder"
    ending = {"table": ".csv", "figure": ".png"}.get(command, "")
    if out in ("folder", "pipe") and ending:
        Path(out).rename(f"{out}{ending}")
        before, sentence = tree(here), sentence.replace(out, f"{out}{ending}", 1)
    if out == "/dev/null" and ending:
        pytest.skip("the ending makes it another name")
    assert called(*words[command], f"--out={out}") == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("fedred: ")
    assert tree(here) == before


@pytest.fixture
def read_only(tmp_path, made):
    """A file system that takes nothing, with a finished run in it."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    done = called("run", made / "one.yaml", "--out", folder / "run")
    again = subprocess.run(["mount", "-o", "remount,ro", folder])
    assert (done, again.returncode) == (0, 0)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_place_that_takes_nothing_is_noticed_before_any_work(read_only, made, capsys):
    before = tree(read_only)
    for words in (
        ("data", "digits"),
        ("partition", PARTITION, f"--dataset={made}/data"),
        ("run", made / "one.yaml"),
        ("table", "performance", made / "run"),
        ("figure", "accuracy_over_rounds", made / "run"),
    ):
        assert called(*words, "--out", read_only / "new" / "x") == 74
        assert f"{read_only} cannot be written to: Read-only file system" in capsys.readouterr().err
    assert tree(read_only) == before


def test_a_finished_run_needs_no_lock_to_be_known(read_only, made, caplog, capsys):
    command = ("run", made / "one.yaml", "--out", read_only / "run")
    assert called(*command) == 0
    assert f"{read_only / 'run'} is complete: nothing to do" in caplog.text
    assert called(*command, "--set=rounds=2") == 2
    assert "holds a finished run of other settings" in capsys.readouterr().err


def test_trying_a_place_leaves_nothing_there(here):
    require_outputs([Path("new/folder/file"), Path("file")])
    assert not tree(here)


def test_a_place_without_rights_is_told_with_the_code_of_its_kind(here, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fedred.paths.tempfile.TemporaryFile", refused)
    with pytest.raises(WriteError, match=r"^\. cannot be written to: Permission denied$"):
        require_outputs([Path("new/x")])


SAME = {
    "relative": lambda path: Path("folder/..") / path,
    "absolute": Path.absolute,
    "symbolic link": lambda path: linked(os.symlink, path),
    "hard link": lambda path: linked(os.link, path),
}


def linked(link, path):
    other = path.with_name(f"{link.__name__}{path.suffix}")
    link(path.absolute(), other)
    return other


@pytest.mark.parametrize("same", SAME.values(), ids=SAME)
def test_no_output_replaces_an_input(same, here, made, capsys):
    shutil.copytree(made, "in", dirs_exist_ok=True)
    Path("folder").mkdir()
    shutil.copy("in/data", "picture.png")
    write_tensors({}, {"kind": "recording"}, Path("recording"))
    shutil.copytree("in/run", "run")
    beside = same(Path("picture.png")).with_suffix(".safetensors")
    words = [
        ("partition", PARTITION, "--dataset=in/data", f"--out={same(Path('in/data'))}"),
        ("partition", PARTITION, "--dataset=picture.png", f"--out={beside}"),
        ("reconstruct", "recording", f"--out={same(Path('recording'))}"),
        ("table", "performance", "in/run", f"--out={same(Path('in/run/rounds.csv'))}"),
        ("table", "performance", "run/run.json", f"--out={same(Path('run/rounds.csv'))}"),
        ("figure", "partition", "in/part.png", f"--out={same(Path('in/part.png'))}"),
    ]
    before = tree(here)
    for command in words:
        assert called(*command) == 2, command
        assert "is read by this command, which would overwrite it" in capsys.readouterr().err
    assert tree(here) == before


@pytest.mark.parametrize("option", ["--dataset", "--partition"])
def test_a_run_does_not_replace_the_files_it_is_made_from(option, here, made, capsys):
    Path("x").mkdir()
    shutil.copy(made / "data", "x/model.safetensors")
    before = tree(here)
    assert called("run", made / "one.yaml", "--out=x", f"{option}=x/model.safetensors") == 2
    assert "x/model.safetensors is read by this command" in capsys.readouterr().err
    assert tree(here) == before


def test_a_data_set_replaces_another_in_the_data_folder_but_nothing_else(here, capsys):
    Path("data").mkdir()
    for _ in range(2):
        assert called("data", "digits", "--out=data/digits.safetensors") == 0
    Path("data/image.png").write_bytes(b"mine")
    assert called("data", "digits", "--out=data/image.png") == 2
    assert "lies in the data folder data and was not written by" in capsys.readouterr().err
    assert Path("data/image.png").read_bytes() == b"mine"


def test_two_outputs_are_two_files(here, made):
    os.symlink("a", "b")
    for pair in (("a", "a"), ("a", "b"), ("a", "./a"), ("a", here / "a")):
        with pytest.raises(UserError, match="are one file: give each a file"):
            require_free(list(map(Path, pair)))


def test_a_folder_is_not_taken_for_the_beginning_of_a_name(here, made, capsys):
    for out in ("new/", ".", "..", "new/..", "~"):
        for words in (
            ("data", "digits"),
            ("partition", PARTITION, f"--dataset={made}/data"),
            ("table", "performance", made / "run"),
            ("figure", "accuracy_over_rounds", made / "run"),
        ):
            assert called(*words, f"--out={out}") == 2
            assert "it names a folder: name a file in it" in " ".join(
                capsys.readouterr().err.replace("│", "").split()
            )
    assert not tree(here)


def test_an_ending_asks_for_one_form_and_no_ending_for_all(here, made, caplog):
    expected = {
        "t.csv": {"t.csv"},
        "T.TEX": {"T.TEX"},
        "alpha0.5": {f"alpha0.5.{ending}" for ending in ("csv", "html", "md", "tex")},
        "alpha0.1": {f"alpha0.1.{ending}" for ending in ("csv", "html", "md", "tex")},
    }
    for out, files in expected.items():
        caplog.clear()
        assert called("table", "performance", made / "run", f"--out=tables/{out}") == 0
        assert all(f"tables/{file}" in caplog.text for file in files)
    assert {path.name for path in Path("tables").iterdir()} == set.union(*expected.values())
    for out, files in {"a.png": {"a.png"}, "b": {"b.png", "b.pdf"}}.items():
        caplog.clear()
        figure = ("figure", "accuracy_over_rounds", made / "run")
        assert called(*figure, f"--out=figures/{out}") == 0
        assert all(f"figures/{file}" in caplog.text for file in files)
    assert {path.name for path in Path("figures").iterdir()} == {"a.png", "b.png", "b.pdf"}
    assert Path("figures/a.png").read_bytes().startswith(b"\x89PNG")


def test_an_ending_of_another_form_is_refused(here, made, capsys):
    for command, name, allowed in (("figure", "acc.svg", "png or pdf"), ("table", "t.XLSX", "csv")):
        shown = "heat_map" if command == "figure" else "performance"
        assert called(command, shown, made / "run", f"--out={name}") == 2
        assert f"{name} ends in" in (said := capsys.readouterr().err)
        assert f"it can be written as {allowed}" in said
    assert not tree(here)


names = st.text(st.sampled_from("ab.0/"), min_size=1).map(lambda text: Path("x" + text))


@given(names, names)
def test_different_names_without_ending_never_share_a_file(one, other):
    endings = ("csv", "md")
    files, others = (set(with_endings(path, endings).values()) for path in (one, other))
    assert len(files) == 2
    assert (files == others) == (one == other)
    assert one == other or not files & others


def test_a_partition_never_shares_its_picture(here, made, caplog):
    expected = {
        "p.png": "p.png.png",
        "part-alpha0.1": "part-alpha0.1.png",
        "part-alpha0.5": "part-alpha0.5.png",
        "p-0.3.safetensors": "p-0.3.png",
    }
    for out, picture in expected.items():
        assert called("partition", PARTITION, f"--dataset={made}/data", f"--out={out}") == 0
        assert f"{picture}: " in caplog.text
    assert {path.name for path in here.iterdir()} == {*expected, *expected.values()}
    for out, picture in expected.items():
        assert len(load_partition(Path(out)).indices) == 3
        assert Path(picture).read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_does_not_block_the_partition(
    here, made, monkeypatch, caplog
):
    def broken(path):
        raise ValueError("\\x is\nno formula")

    monkeypatch.setitem(cli_figures(), "partition", broken)
    assert called("partition", PARTITION, f"--dataset={made}/data", "--out=p") == 0
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "p could not be drawn (ValueError: \\x is no formula)" in warning.getMessage()
    assert len(load_partition(Path("p")).indices) == 3
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")


def test_nor_does_one_that_fails_while_it_is_painted(here, made, monkeypatch, caplog):
    """A figure is built, and painted when it is written; the picture that says so is another one."""
    painted = Figure.savefig

    def broken(figure, *arguments, **options):
        if figure.axes:
            raise ValueError("no formula")
        painted(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", broken)
    assert called("partition", PARTITION, f"--dataset={made}/data", "--out=p") == 0
    assert "could not be drawn" in caplog.text
    assert len(load_partition(Path("p")).indices) == 3
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")


def cli_figures():
    from fedred.report.figures import FIGURES

    return FIGURES


def test_a_picture_that_cannot_be_written_is_told_once_the_partition_is_there(
    here, made, monkeypatch, capsys
):
    def full(*arguments, **options):
        raise WriteError("p.png could not be written: No space left on device")

    monkeypatch.setattr("fedred.report.figures.write_figure", full)
    assert called("partition", PARTITION, f"--dataset={made}/data", "--out=p") == 74
    assert "p.png could not be written" in capsys.readouterr().err
    assert len(load_partition(Path("p")).indices) == 3


KINDS = {
    "missing": lambda path: None,
    "a folder": Path.mkdir,
    "empty": Path.touch,
    "a pipe": os.mkfifo,
    "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
    "a link to a device": lambda path: path.symlink_to("/dev/full"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}
READING = {
    "partition": ("partition", PARTITION, "--dataset=x", "--out=new"),
    "run": ("run", "x", "--out=new"),
    "run --dataset": ("run", "one.yaml", "--dataset=x", "--out=new"),
    "reconstruct": ("reconstruct", "x", "--out=new"),
    "table": ("table", "performance", "x"),
    "table of judged": ("table", "auroc", "x"),
    "figure": ("figure", "accuracy_over_rounds", "x", "--out=new"),
    "figure of a partition": ("figure", "partition", "x", "--out=new"),
    "figure of images": ("figure", "images", "x", "--out=new"),
    "plan": ("plan", "x"),
    "plan --measured": ("plan", "config/config.yaml", "--measured=x"),
    "summary": ("summary", "x"),
    "cite": ("cite", "x"),
    "publish": ("publish", "x", "study"),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_an_input_that_is_no_file_is_one_sentence_and_never_waited_for(make, here, made, capsys):
    shutil.copy(made / "one.yaml", "one.yaml")
    shutil.copytree(Path(__file__).parent.parent / "config", "config")
    make(Path("x"))
    before = {path.name for path in here.iterdir()}
    for words in READING.values():
        assert called(*words) == 2, words
        said = capsys.readouterr().err
        assert said.startswith("fedred: "), said
        assert "x" in said
        assert "Errno" not in said
    assert {path.name for path in here.iterdir()} == before


def test_an_input_without_rights_is_one_sentence(here, monkeypatch):
    def refused(*arguments):
        raise PermissionError(13, "Permission denied")

    Path("x").touch()
    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(UserError, match=r"^x cannot be read: Permission denied$"):
        opened(Path("x"))


def test_settings_come_from_a_pipe_too(here, made):
    command = f"cat {made}/one.yaml | {{ sleep 0.1; cat; }}"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE) as process:
        assert called("cite", f"/dev/fd/{process.stdout.fileno()}") == 0


def test_a_run_may_be_named_by_its_summary(here, made):
    (read,) = load_runs([made / "run" / "run.json"])
    assert read.folder == made / "run"
    pd.testing.assert_frame_equal(read.rounds, load_runs([made / "run"])[0].rounds)


def test_a_run_that_has_not_finished_is_told_by_its_folder(here):
    Path("out").mkdir()
    for path in ("out", "out/run.json"):
        with pytest.raises(UserError, match=r"^out/run\.json is missing: has the run finished\?$"):
            load_runs([path])


def test_a_study_whose_place_takes_nothing_is_refused_before_it_is_read(here, made, capsys):
    shutil.copytree(Path(__file__).parent.parent / "config", "config")
    Path("results").touch()
    with pytest.raises(UserError, match="results is a file: name a folder in its place"):
        publish(Path("config/config.yaml"), "study", Path("results"))


@pytest.mark.parametrize("name", [" ", "a ", " a"])
def test_a_name_that_ends_in_a_space_is_seen_in_a_sentence(name, here, capsys):
    assert called("plan", name) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fedred: there is no file '")
    assert line.endswith("'")


def test_a_gpu_that_pytorch_cannot_use_is_refused_before_a_folder_is_made(
    here, made, monkeypatch, capsys
):
    monkeypatch.setattr("torch.backends.cuda.is_built", lambda: False)
    assert called("run", made / "one.yaml", "--out=x", "--device=cuda") == 2
    assert "--device cuda: PyTorch finds no GPU here" in capsys.readouterr().err
    assert not tree(here)
