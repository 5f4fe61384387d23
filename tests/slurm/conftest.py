"""A real Slurm for the tests: a controller and one node of two cores, both on this machine, with settings of their own.

Partition `low` is preempted by partition `high`, with half a minute to save.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

KEY = Path("/etc/munge/munge.key")
SETTINGS = """\
ClusterName=nndiff
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=cred_expire=2
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
JobRequeue=1
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=30 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def told(*words: object) -> str:
    """Return what a command prints."""
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout.strip()


def until(happens: object, what: str) -> None:
    """Wait; a test that waits for ever is stopped by whoever started it, no time limit decides it."""
    begun = time.monotonic()
    while not happens():  # type: ignore[operator]
        time.sleep(0.2)
        if time.monotonic() - begun > 600:
            pytest.fail(f"after ten minutes still not: {what}")


def state(job: str) -> str:
    return told("scontrol", "show", "job", job, "--oneliner").partition("JobState=")[2].partition(" ")[0]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder of a running Slurm, which the commands of this process use."""
    if not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))) or os.getuid() != 0:
        pytest.skip("Slurm is not installed here, or this is not root: apt-get install slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    for parent in (folder, *folder.parents):
        if parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    _begin_munge()
    settings = folder / "slurm.conf"
    settings.write_text(SETTINGS.format(host=platform.node(), folder=folder, ports=(free_port(), free_port())))
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(settings)
    daemons = [subprocess.Popen([name, "-D", "-c"], stdin=subprocess.DEVNULL) for name in ("slurmctld", "slurmd")]
    try:
        states = ["sinfo", "-h", "-o", "%T"]
        until(lambda: "idle" in subprocess.run(states, capture_output=True, text=True).stdout, "an idle node")
        yield folder
    finally:
        subprocess.run(["scancel", "--user=root", "--quiet"])
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def _begin_munge() -> None:
    """Start the daemon that tells Slurm who speaks, unless it runs."""
    if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
        return
    for folder in ("/run/munge", "/var/log/munge", "/var/lib/munge", "/etc/munge"):
        Path(folder).mkdir(exist_ok=True)
        shutil.chown(folder, "munge")
    if not KEY.exists():
        KEY.write_bytes(os.urandom(1024))
        shutil.chown(KEY, "munge")
        KEY.chmod(0o400)
    subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)
