"""A disk that is full: the last good state stays, the end is clear, and there is a way on."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from command import FEDRED
from run_results import same_results
from small import DEFENSE, SETTINGS

from fedred.errors import WriteError
from fedred.files import written_whole

pytestmark = pytest.mark.slow

CONFIG = {**SETTINGS, "model": {"name": "mlp", "width": 256}, "defense": DEFENSE, "rounds": 8}
ROOM = 1024 * 1024  # bytes: for a log and one checkpoint, not for two


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(folder, left):
    """Fill a disk but for some bytes."""
    with (folder / "filling").open("wb") as file:
        file.write(bytes(shutil.disk_usage(folder).free - left))


def run(config, out, log, *arguments):
    with log.open("w") as stderr:
        command = [*FEDRED, "run", config, "--out", out, "--checkpoint-every", 1, *arguments]
        return subprocess.run([*map(str, command)], stderr=stderr).returncode


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "one.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    """The same run where there is room."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(config, folder / "run", folder / "log") == 0
    return folder / "run"


def test_a_run_on_a_full_disk_ends_clearly_and_goes_on_once_there_is_room(
    tmp_path, config, disk, undisturbed
):
    out, log = disk / "run", tmp_path / "log"
    assert run(config, out, log, "--max-seconds", 0) == 75
    good = (out / "checkpoint.safetensors").read_bytes()
    fill(disk, left=len(good) // 2)
    for _ in range(2):
        assert run(config, out, log) == 74
        said = log.read_text()
        assert f"fedred: {out / 'checkpoint.safetensors'} could not be written" in said
        assert "No space left on device" in said
        assert "Traceback" not in said
        assert (out / "checkpoint.safetensors").read_bytes() == good
        assert [path.name for path in out.iterdir()] == ["checkpoint.safetensors"]
    (disk / "filling").unlink()
    assert run(config, out, log) == 0
    assert "resuming after round 1 of 8" in log.read_text()
    same_results(out, undisturbed)


def test_a_log_on_the_full_disk_does_not_hide_how_it_ended(tmp_path, config, disk):
    out = disk / "run"
    assert run(config, out, tmp_path / "log", "--max-seconds", 0) == 75
    fill(disk, left=0)
    assert run(config, out, disk / "log") == 74


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("arguments", "code"), [(["run", "missing.yaml", "--out", "missing"], 2), (["list"], 0)]
)
def test_a_log_that_takes_nothing_does_not_change_the_exit_code(arguments, code, unbuffered):
    variables = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as log:
        done = subprocess.run([*FEDRED, *arguments], stderr=log, env=variables)
    assert done.returncode == code


def test_a_log_that_is_closed_does_not_change_the_exit_code():
    command = " ".join(map(str, FEDRED))
    assert subprocess.run(["sh", "-c", f"{command} list 2>&-"]).returncode == 0


@pytest.mark.parametrize("left", [0, 4096, 65536])
def test_results_on_a_full_disk_are_whole_or_absent(tmp_path, config, disk, undisturbed, left):
    out, log = disk / "run", tmp_path / "log"
    fill(disk, left)
    assert run(config, out, log, "--checkpoint-every", 100) == 74
    assert "Traceback" not in log.read_text()
    assert not (out / "run.json").exists()
    (disk / "filling").unlink()
    assert run(config, out, log, "--checkpoint-every", 100) == 0
    same_results(out, undisturbed)


def test_what_was_there_stays_when_there_is_no_room(disk):
    path = disk / "table.csv"
    path.write_text("before")
    fill(disk, left=4096)
    with pytest.raises(WriteError, match="No space left"), written_whole(path) as temporary:
        temporary.write_bytes(bytes(ROOM))
    assert path.read_text() == "before"
    assert {found.name for found in disk.iterdir()} == {"table.csv", "filling"}
