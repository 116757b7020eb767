#!/bin/sh
# Install what the machine lacks beside this file; needs pip, and neither a network nor any rights.
#     sh install.sh                     with python3, or PYTHON=/path/to/python sh install.sh
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-python3}
WANTED=$(cat "$HERE/PYTHON_VERSION")
FOUND=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$FOUND" != "$WANTED" ]; then
    echo "$PYTHON is Python $FOUND, and these wheels are for $WANTED: name one with PYTHON=, or" \
        "make the folder anew with make gpu-bundle PYTHON_VERSION=$FOUND" >&2
    exit 2
fi
rm -rf "$HERE/packages" "$HERE/packages.new"
# --target leaves alone what is installed; --no-deps, since torch and numpy are the machine's own.
"$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-warn-script-location \
    --target "$HERE/packages.new" "$HERE"/wheels/*.whl
mv "$HERE/packages.new" "$HERE/packages"
echo "$PYTHON" > "$HERE/packages/PYTHON"
if [ -f "$HERE/run.sh" ]; then
    "$HERE/run.sh" -c 'import torch, pipeline.segmentation; print("torch", torch.__version__,
        "with", torch.cuda.device_count(), "GPUs")'
    echo "Installed. Now: $HERE/run.sh -m benchmarks.gpu"
else
    echo "Installed. Beside gpu-bundle, its run.sh finds it; else PYTHONPATH=$HERE/packages"
fi
