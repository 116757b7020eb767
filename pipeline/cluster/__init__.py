"""Beyond one machine: studies as tasks of a Dask cluster, with the journal of a single process.

A cluster is named by its scheduler's address or described in a small YAML file. Each worker holds
one warm model; studies of workers that are lost go to others. Inputs, model and output folder lie
on a file system that all machines share.
"""

from pipeline.cluster.config import ClusterConfig, read_cluster
from pipeline.cluster.workers import DaskWorkers

__all__ = ["ClusterConfig", "DaskWorkers", "read_cluster"]
