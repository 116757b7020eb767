#!/bin/sh
# Run python with what install.sh installed, from anywhere:
#     ./run.sh -m benchmarks.gpu        or ./run.sh -m pipeline segment ...
HERE=$(cd "$(dirname "$0")" && pwd)
[ -f "$HERE/packages/PYTHON" ] || { echo "First: sh $HERE/install.sh" >&2; exit 2; }
PYTHONPATH=$HERE/trivox:$HERE/packages:$HERE/../gpu-bundle-dicom/packages${PYTHONPATH:+:$PYTHONPATH}
# Nothing of the folder that it is called from.
PYTHONSAFEPATH=1
export PYTHONPATH PYTHONSAFEPATH
exec "${PYTHON:-$(cat "$HERE/packages/PYTHON")}" "$@"
