"""Who may connect to a cluster: those with the keys (TLS, both sides)."""

from pathlib import Path

from distributed import Security

from pipeline.cluster.config import TlsFiles


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
