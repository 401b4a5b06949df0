"""A real SLURM of one node with two fake GPUs, on the Debian machine that runs this, as root.

python tests/slurm/one_node_slurm.py install|start|stop
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
DAEMONS = ("slurmd", "slurmctld", "munged")  # in the order in which they are stopped
STATE = Path("/var/lib/fedred-one-node-slurm")
ETC = Path("/etc/slurm")  # SLURM_CONF would not do: Snakemake's job steps drop it
MARK = "# Made by tests/slurm/one_node_slurm.py of fedred, which may remove it.\n"
GPUS = 2
HUNG = 1800
"""Seconds after which what is waited for does not come any more, on any machine."""

# Four CPUs and plenty of memory, whatever the machine has: only GPUs are scarce here.
SLURM_CONF = """\
ClusterName=fedred
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=600
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.log
StateSaveLocation={state}/saved
SlurmdSpoolDir={state}/spool
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=64000 Gres=gpu:{gpus}
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE DefMemPerCPU=200
"""


class Refused(Exception):  # noqa: N818 (no error)
    """Why no SLURM is brought up here, in one line."""


def refuse_if_in_the_way() -> None:
    """Raise Refused where a SLURM of one's own is impossible, or would disturb another."""
    if os.geteuid() != 0:
        raise Refused("only root can start SLURM's daemons")
    if not shutil.which("apt-get"):
        raise Refused("SLURM is installed with apt-get, which is not here")
    if "SLURM_CONF" in os.environ:
        raise Refused("SLURM_CONF is set: this machine belongs to a cluster")
    for path in configuration():
        if path.exists() and not is_ours(path):
            raise Refused(f"{path} is another SLURM's")
    own = {process.pid for process in running()}
    for process in psutil.process_iter():
        for name in ("slurmctld", "slurmd"):
            if process.pid not in own and is_alive(process.pid, name):
                raise Refused(f"another SLURM runs here ({name}, process {process.pid})")


def configuration() -> list[Path]:
    """Return the files that SLURM reads."""
    return [ETC / "slurm.conf", ETC / "gres.conf"]


def is_ours(path: Path) -> bool:
    """Tell whether a file was written here."""
    return path.read_text().startswith(MARK)


def running() -> list[psutil.Process]:
    """Return the daemons that were started here and still run."""
    found = []
    for name in DAEMONS:
        pid_file = STATE / f"{name}.pid"
        pid = int(pid_file.read_text() or 0) if pid_file.exists() else 0
        if pid and is_alive(pid, name):
            found.append(psutil.Process(pid))
    return found


def is_alive(pid: int, name: str) -> bool:
    """Tell whether a process of this name has the number, which may be another's by now."""
    try:
        process = psutil.Process(pid)
        return process.name() == name and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def missing() -> list[str]:
    """Return the programs that the packages would bring."""
    return [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]


def install() -> None:
    """Install Debian's packages, if they are not there."""
    refuse_if_in_the_way()
    if not missing():
        return
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    wanted = ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
    for arguments in (["update", "-qq"], wanted):
        done = subprocess.run(
            ["apt-get", *arguments], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise Refused(f"apt-get {arguments[0]} failed: {said[-1] if said else 'silently'}")


def start() -> None:
    """Start what does not run yet, and wait until the node takes jobs."""
    refuse_if_in_the_way()
    if missing():
        raise Refused(f"{', '.join(missing())} not installed: `make test-slurm` installs SLURM")
    alive = {process.name() for process in running()}
    if not {"slurmctld", "slurmd"} <= alive:
        configure()
    if "munged" not in alive and not answers("munge", "--no-input"):
        start_munge()
    for daemon in ("slurmctld", "slurmd"):
        if daemon not in alive:
            subprocess.run([daemon], check=True, capture_output=True)
    wait_for(node_is_ready, "the node")


def configure() -> None:
    """Write the configuration and the device files that stand for GPUs."""
    for folder in (ETC, STATE / "saved", STATE / "spool"):
        folder.mkdir(parents=True, exist_ok=True)
    devices = [STATE / f"nvidia{number}" for number in range(GPUS)]
    for device in devices:
        make_device(device)
    host = socket.gethostname().partition(".")[0]
    gres = [f"NodeName=localhost Name=gpu File={device}\n" for device in devices]
    slurm = SLURM_CONF.format(host=host, state=STATE, gpus=GPUS)
    for path, text in zip(configuration(), (slurm, "".join(gres)), strict=True):
        path.write_text(MARK + text)


def make_device(path: Path) -> None:
    """Make a device like /dev/null: SLURM refuses plain files."""
    try:
        if not path.exists():
            os.mknod(path, 0o20666, os.makedev(1, 3))
    except PermissionError:
        raise Refused("device files cannot be made here (mknod is not permitted)") from None


def start_munge() -> None:
    """Start munge, which signs SLURM's messages, and note that it is ours to stop."""
    folder = Path("/run/munge")
    folder.mkdir(mode=0o755, exist_ok=True)
    shutil.chown(folder, "munge", "munge")
    subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True, capture_output=True)
    wait_for(lambda: answers("munge", "--no-input"), "munge")
    shutil.copyfile(folder / "munged.pid", STATE / "munged.pid")


def node_is_ready() -> bool:
    """Tell whether the node takes jobs; a node that was drained is put back."""
    state = output("sinfo", "--noheader", "--format=%T")
    if state.startswith(("down", "drain", "unknown")):
        answers("scontrol", "update", "NodeName=localhost", "State=RESUME")
    return state in ("idle", "mixed", "allocated")


def stop() -> None:
    """Cancel all jobs, stop the daemons started here, remove the files made here."""
    processes = running()
    if any(process.name() == "slurmctld" for process in processes):
        answers("scancel", "--full", "--signal=KILL", "--user=root")
        answers("scancel", "--user=root")
        wait_for(lambda: not output("squeue", "--noheader"), "the end of the jobs")
    for process in processes:
        process.terminate()
    _, left = psutil.wait_procs(processes, timeout=HUNG)
    for process in left:
        process.kill()
    for path in configuration():
        if path.exists() and is_ours(path):
            path.unlink()
    shutil.rmtree(STATE, ignore_errors=True)


def answers(*command: str) -> bool:
    """Tell whether a command succeeds."""
    return subprocess.run(command, capture_output=True).returncode == 0


def output(*command: str) -> str:
    """Return what a command says."""
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def wait_for(condition, what: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + HUNG
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {HUNG} s in vain for {what}")
        time.sleep(0.2)


if __name__ == "__main__":
    actions = {"install": install, "start": start, "stop": stop}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        sys.exit(__doc__)
    try:
        actions[sys.argv[1]]()
    except Refused as reason:
        print(f"SLURM: skipped, {reason}")
