"""Compiled runs: the numbers of runs that are not compiled, and the same bytes after a kill."""

import signal
import subprocess

import pytest
import torch
import yaml
from command import fedred, pausing, wait_for_checkpoint
from run_results import same_results
from small import DEFENSE, SETTINGS, federation, play

from fedred.execution import Execution
from fedred.simulation import initial_state

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiler")]
TWO_STEPS = {**DEFENSE, "reconstruction": {**DEFENSE["reconstruction"], "steps": 2}}
"""Each unrolled step takes seconds to compile."""
ATTACKED = {"model": {"name": "mlp", "width": 8}, "attack": "min_max", "defense": TWO_STEPS}


@pytest.mark.parametrize("chunk", [1, 8])
def test_a_compiled_run_gives_the_numbers_of_one_that_is_not(chunk):
    # Min-Max attackers are excluded, so that later rounds have clients padded up to the chunk.
    states, records = zip(
        *(play(federation(Execution(chunk, how), **ATTACKED)) for how in ("on", "off")), strict=True
    )
    moved = (states[1].weights - initial_state(federation(**ATTACKED)).weights).norm()
    assert (states[0].weights - states[1].weights).norm() < 1e-3 * moved
    for compiled, plain in zip(*records, strict=True):
        assert torch.equal(compiled.clients["trusted"], plain.clients["trusted"])
        assert torch.equal(compiled.clients["iterations"], plain.clients["iterations"])
        torch.testing.assert_close(
            compiled.clients["score"], plain.clients["score"], rtol=1e-3, atol=1e-5, equal_nan=True
        )


def test_killed_and_resumed_equals_undisturbed(tmp_path):
    config = tmp_path / "one.yaml"
    config.write_text(yaml.safe_dump({**SETTINGS, **ATTACKED, "rounds": 30}))
    how = ("--compile", "on", "--checkpoint-every", 2, "--threads", 1)
    whole, out = (tmp_path / name / "run" for name in ("whole", "killed"))
    done = fedred("run", config, "--out", whole, *how)
    assert done.returncode == 0, done.stderr
    (tmp_path / "pause").touch()
    command = [*pausing(tmp_path / "pause"), "run", config, "--out", out, *how]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    wait_for_checkpoint(process, out)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = fedred("run", config, "--out", out, *how)
    assert "resuming after round" in done.stderr
    same_results(out, whole)
