#!/bin/sh
# Make the environment that `benchmarks.inference_nnunet` runs nnU-Net v2 in.
#
#     sh benchmarks/nnunet_environment.sh FOLDER [PYTHON]
#
# Torch comes first, in Trivox's own version. nnunetv2 and its companions come without their
# dependencies, because timm, which the transformer networks alone import, would bring torchvision,
# and that another torch. Nothing here is a stub: the plain U-Net, the preprocessing and the
# predictor import neither timm nor torchvision.
set -eu

folder=${1:?"usage: $0 FOLDER [PYTHON]"}
python=${2:-python3}

"$python" -m venv "$folder"
pip="$folder/bin/python -m pip install --quiet --disable-pip-version-check"
$pip "torch==2.13.0"
$pip --no-deps \
    "nnunetv2==2.8.1" \
    "dynamic-network-architectures==0.4.4" \
    "acvl-utils==0.2.6" \
    "batchgenerators==0.25.5" \
    "batchgeneratorsv2==0.3.6"
# What those ask for, but for timm, and for unittest2, which has no part in prediction.
$pip blosc2 connected-components-3d einops future graphviz imagecodecs matplotlib nibabel numpy \
    pandas pillow requests scikit-image scikit-learn scipy seaborn SimpleITK threadpoolctl \
    tifffile tqdm yacs
"$folder/bin/python" -c '
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

recursive_find_trainer_class_by_name("nnUNetTrainer")
'
echo "$folder/bin/python"
