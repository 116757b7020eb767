"""What a cluster is: the file, or the address, that follows `--cluster`, and its keys."""

import re
from pathlib import Path
from typing import Literal, TypeAlias

from distributed import Security
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.config import build_config
from pipeline.errors import ConfigError
from pipeline.system.documents import read_yaml
from pipeline.system.memory import parse_memory

_ADDRESS = re.compile(r"((tcp|tls)://)?[\w.-]+:\d+")
_BYTES_PER_GB = 10**9
_WEEK_MINUTES = 7 * 24 * 60.0


class _Settings(BaseModel):
    """What all clusters have.

    Attributes:
        threads: Of each worker, that the network computes with.
        patience_minutes: How long there may be no worker before the run is given up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: int = Field(default=1, ge=1)
    patience_minutes: float = Field(default=60.0, gt=0)


class _OwnWorkers(_Settings):
    """Workers that Trivox starts.

    Attributes:
        workers: How many; each holds the model once and segments one study at a time.
        memory: That each may take, such as 16GB; None: no limit.
    """

    workers: int = Field(default=1, ge=1)
    memory: str | None = None

    @property
    def memory_bytes(self) -> int | None:
        """Main memory that each worker may take."""
        return None if self.memory is None else round(_BYTES_PER_GB * parse_memory(self.memory))

    @field_validator("memory")
    @classmethod
    def _is_amount(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_memory(value)
            except ConfigError as error:
                raise ValueError(f"{error.found}; write it as 16GB") from error
        return value


class TlsFiles(BaseModel):
    """Who may connect to a scheduler at a tls:// address, by files in PEM format.

    Attributes:
        ca: Certificate of the authority that scheduler and workers are signed by.
        cert: Certificate of this side.
        key: Its private key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca: Path
    cert: Path
    key: Path


class AddressConfig(_Settings):
    """A Dask scheduler that runs already, with workers in the same environment as this one.

    Attributes:
        address: Such as tcp://10.0.0.5:8786.
        tls: For an address that begins with tls://.
    """

    kind: Literal["address"] = "address"
    address: str
    tls: TlsFiles | None = None

    @field_validator("address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if not _ADDRESS.fullmatch(value):
            raise ValueError("this is no address of a Dask scheduler such as tcp://10.0.0.5:8786")
        return value

    @model_validator(mode="after")
    def _keys_fit(self) -> "AddressConfig":
        if self.address.startswith("tls://") != (self.tls is not None):
            raise ValueError("an address tls://... and files of keys under `tls:` go together")
        return self


class LocalConfig(_OwnWorkers):
    """Processes on this machine, that nobody else can connect to.

    Attributes:
        gpus: How many GPUs they share in turn; 0: all compute on the run's device.
    """

    kind: Literal["local"]
    gpus: int = Field(default=0, ge=0)


class SshConfig(_OwnWorkers):
    """Machines that can be reached by SSH without a password.

    Attributes:
        hosts: The first runs the scheduler, and all of them run `workers` workers each.
        username: To log in with; None: as SSH's own configuration says.
        python: The Python there that Trivox is installed in.
        tls: For scheduler and workers; the files lie at the same path on every host. None: keys are
            made for each run, in the output folder, which all hosts see.
    """

    kind: Literal["ssh"]
    hosts: tuple[str, ...] = Field(min_length=1)
    username: str | None = None
    python: str | None = None
    tls: TlsFiles | None = None


class SlurmConfig(_OwnWorkers):
    """Jobs of Slurm, one for each worker, started and ended by the run.

    Attributes:
        memory: That each job asks for.
        gpus: That each job asks for.
        partition: To run in.
        account: To charge.
        walltime: That each job asks for; a new job takes the place of one that ended.
        interface: Network interface that the nodes reach each other by, such as ib0.
        job_extra_directives: Further words after `#SBATCH`, one entry a line.
        prologue: Lines of shell before a worker starts, such as `module load cuda`.
        python: The Python on the nodes that Trivox is installed in; None: this one.
    """

    kind: Literal["slurm"]
    memory: str
    gpus: int = Field(default=0, ge=0)
    patience_minutes: float = Field(default=_WEEK_MINUTES, gt=0)
    partition: str | None = Field(default=None, pattern=r"^\S+$")
    account: str | None = Field(default=None, pattern=r"^\S+$")
    walltime: str = Field(default="24:00:00", pattern=r"^[\d:-]+$")
    interface: str | None = Field(default=None, pattern=r"^\S+$")
    job_extra_directives: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    python: str | None = None


ClusterConfig: TypeAlias = AddressConfig | LocalConfig | SshConfig | SlurmConfig

_KINDS: dict[str, type[ClusterConfig]] = {
    "address": AddressConfig,
    "local": LocalConfig,
    "ssh": SshConfig,
    "slurm": SlurmConfig,
}


def read_cluster(word: str) -> ClusterConfig:
    """Return what the word after `--cluster` stands for.

    Args:
        word: A scheduler's address, such as tcp://10.0.0.5:8786, or a YAML file.

    Raises:
        ConfigError: If it is neither, or the file does not hold.
    """
    path = Path(word)
    if _ADDRESS.fullmatch(word):
        if word.startswith("tls://"):
            remedy = "Write `kind: address`, `address:` and `tls:` into a YAML file and name that."
            raise ConfigError(word, "files of keys are needed for TLS", remedy)
        return AddressConfig(address=word)
    if not path.is_file():
        found = "this is neither a scheduler's address nor a file"
        raise ConfigError(word, found, "Write tcp://HOST:PORT, or name a YAML file with `kind:`.")
    tree = read_yaml(path, ConfigError)
    kind = tree.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        found = "kind is missing" if kind is None else f"kind: there is no {kind!r}"
        raise ConfigError(path, found, f"Write kind: and one of {', '.join(_KINDS)}.")
    return build_config(_KINDS[kind], tree, (), where=str(path))


def make_keys(folder: Path) -> TlsFiles:
    """Make keys that nobody else has, and write them into a folder that only this user may read.

    Raises:
        ImportError: If `cryptography` is not installed.
    """
    made = Security.temporary()
    files = TlsFiles(ca=folder / "ca.pem", cert=folder / "cert.pem", key=folder / "key.pem")
    for path, text in (
        (files.ca, made.tls_ca_file),
        (files.cert, made.tls_worker_cert),
        (files.key, made.tls_worker_key),
    ):
        path.touch(mode=0o600)
        path.write_text(text, encoding="ascii")
    return files


def tls_settings(files: TlsFiles) -> dict[str, object]:
    """Return Dask's settings by which processes that are started elsewhere take no one else in."""
    ca, cert, key = (str(path.absolute()) for path in (files.ca, files.cert, files.key))
    roles = {
        f"distributed.comm.tls.{role}.{what}": path
        for role in ("scheduler", "worker", "client")
        for what, path in (("cert", cert), ("key", key))
    }
    common = {"distributed.comm.require-encryption": True, "distributed.comm.tls.ca-file": ca}
    return {**common, **roles}


def security_of(files: TlsFiles | None) -> Security | None:
    """Return what Dask takes, with the same keys for all roles; None: no keys are needed."""
    if files is None:
        return None
    ca, cert, key = (str(path.absolute()) for path in (files.ca, files.cert, files.key))
    return Security(
        require_encryption=True,
        tls_ca_file=ca,
        tls_client_cert=cert,
        tls_client_key=key,
        tls_scheduler_cert=cert,
        tls_scheduler_key=key,
        tls_worker_cert=cert,
        tls_worker_key=key,
    )
