"""A private Slurm of one node: own keys, own ports on the loopback, everything in one folder."""

import os
import platform
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress

_DAEMONS = ("munged", "slurmctld", "slurmd")

_CONFIGURATION = """
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
KillWait=5
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """Return the first program that is not installed."""
    path = os.pathsep.join([os.defpath, "/usr/sbin", "/sbin"])
    return next((name for name in _DAEMONS if not shutil.which(name, path=path)), None)


@contextmanager
def slurm_site(folder):
    """Run one; gives the words to put before Slurm's commands. Raises `OSError` if it cannot be."""
    host = platform.node().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    key, conf = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    user = subprocess.check_output(["id", "-un"], text=True).strip()
    conf.write_text(_CONFIGURATION.format(host=host, user=user, folder=folder, ports=free_ports(2)))
    environment = ["env", f"SLURM_CONF={conf}"]
    munged = [
        *("munged", "--foreground", "--force", f"--key-file={key}"),
        f"--socket={folder}/munge.socket",
        *(f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")),
    ]
    with ExitStack() as stack:
        stack.enter_context(daemon(munged, environment))
        wait_for((folder / "munge.socket").exists)
        stack.enter_context(daemon(["slurmctld", "-D"], environment))
        stack.enter_context(daemon(["slurmd", "-D", "-N", host], environment))
        wait_for(lambda: "idle" in ask(["sinfo", "-h", "-o", "%T"], environment))
        # Jobs go before the daemons that would end them.
        stack.callback(wait_until_empty, environment)
        yield environment


@contextmanager
def daemon(words, environment):
    """Run a daemon of this user's until the block ends."""
    program = shutil.which(words[0], path=os.pathsep.join([os.defpath, "/usr/sbin", "/sbin"]))
    process = subprocess.Popen(
        [*environment, program, *words[1:]],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def wait_until_empty(environment):
    """Cancel all jobs, and wait until they are gone."""
    for words in (["--full", "--state=RUNNING"], ["--state=PENDING"]):
        subprocess.run([*environment, "scancel", *words], check=False)
    with suppress(OSError):
        wait_for(lambda: not ask(["squeue", "-h"], environment).strip())


def ask(words, environment):
    """Return what a command of Slurm's prints."""
    return subprocess.run(
        [*environment, *words], capture_output=True, text=True, check=False
    ).stdout


def wait_for(condition, patience_s=30.0):
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise OSError("Slurm does not start here")
        time.sleep(0.1)


def free_ports(number):
    """Ports that nobody uses now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
