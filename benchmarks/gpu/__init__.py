"""What Trivox does on a GPU, proven and measured in nine minutes: `python -m benchmarks.gpu`."""
