"""The verb `trivox refine`: its words, its help, and what it does.

In a module of its own because it needs no model, unlike the other verbs that write masks.
"""

import argparse

from pipeline.cli.paths import add_replace, to_read, to_write
from pipeline.cli.verbs import DONE, Choices, print_lines
from pipeline.errors import ConfigError

_DESCRIPTION = """\
Refine a segmentation that any tool or person made, by a fully connected
conditional random field: voxels that are near each other and look alike tend
to get the same label, so boundaries move to where the image has them. No model
is needed. The mask lies on exactly the grid of the segmentation, with its
header's geometry; a .json beside it says where it came from.

Fixed parameters can damage a good mask: they shave thin structures and cross
boundaries that the image hardly shows. Look at the picture, and score it where
there is a reference (trivox evaluate). For masks of a Trivox model, let
`trivox postprocess-search MODEL` decide on validation cases instead.
"""

_EPILOG = """\
settings (key=value, anywhere on the line):
  band_mm=4               with --labels: voxels further than this from a boundary
                          keep their label; the nearer to it, the less certain;
                          give at least two voxels' width
  theta_position_mm=3     reach: voxels further apart, in mm, hardly matter to
                          each other
  theta_intensity=0.5     how alike voxels must look, in robust units: 1 is the
                          spread (1.4826 x median absolute deviation) of the
                          image at the voxels that may change; smaller values
                          follow fainter edges, and noise
  weight_appearance=3     strength of that kernel; 0 turns it off
  theta_smoothness_mm=2   reach of the kernel that looks at position only
  weight_smoothness=1     its strength: larger is smoother; 0 turns it off
  iterations=5            rounds of messages
  normalisation=row       or symmetric, as pydensecrf does
  compatibility=[[...]]   cost of label beside label, background first; at most
                          seven labels; without it 1 for different labels
  study.non_finite=repair  NaN in the image becomes its smallest value

examples:
  a CT with a label map; boundaries may move by 3 mm:
    trivox refine --image ct.nii.gz --labels organs.nii.gz \\
        --out refined.nii.gz --picture refined.png band_mm=3

  probabilities, as `trivox segment --probabilities` writes them; only voxels
  of which the network was not certain may change:
    trivox refine --image t1.nii.gz t2.nii.gz \\
        --probabilities case_probabilities.nii.gz --out refined.nii.gz
"""


def add_refine(choices: Choices, common: argparse.ArgumentParser) -> None:
    """Add the verb to the parser of all verbs."""
    parser = choices.add_parser(
        "refine",
        parents=[common],
        usage="trivox refine --image IMAGE [IMAGE ...] (--labels FILE | --probabilities FILE) "
        "--out FILE [--picture FILE] [--max-memory SIZE] [--device DEVICE] [--replace] "
        "[key=value ...] [--verbose]",
        help="refine any segmentation by its image, without a model",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--image",
        type=to_read,
        nargs="+",
        required=True,
        metavar="IMAGE",
        help="NIfTI, NRRD or MHA: one file per channel, or one with all",
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--labels",
        type=to_read,
        metavar="FILE",
        help="a label map on the image's grid; 0: background",
    )
    given.add_argument(
        "--probabilities",
        type=to_read,
        metavar="FILE",
        help="4D: a volume of each class, the background's first, that sum to one; class 1 "
        "becomes label 1, and so on",
    )
    parser.add_argument(
        "--out", type=to_write, required=True, metavar="FILE", help="the refined mask, .nii.gz"
    )
    parser.add_argument(
        "--picture", type=to_write, metavar="FILE", help="draw both masks over the image, as .png"
    )
    parser.add_argument(
        "--max-memory", metavar="SIZE", help="main memory to stay within, such as 4GB"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add_replace(parser)
    parser.set_defaults(verb=refine)


def refine(options: argparse.Namespace) -> int:
    """Refine one segmentation; print what changed."""
    from pipeline.config import build_config
    from pipeline.inference import choose_device
    from pipeline.refinement import (
        Outputs,
        RefinementConfig,
        Request,
        describe_refinement,
        refine_files,
    )
    from pipeline.system.memory import parse_memory

    config = build_config(RefinementConfig, {}, options.overrides, where="trivox refine")
    segmentation = options.labels or options.probabilities
    for path in (*options.image, segmentation):
        if not path.exists():
            raise ConfigError(path, "file does not exist", "Check the path.")
    outputs = Outputs(options.out, options.picture, replace=options.replace)
    request = Request(
        images=tuple(options.image),
        segmentation=segmentation,
        kind="labels" if options.labels else "probabilities",
        outputs=outputs,
        config=config,
        device=choose_device(options.device),
        max_bytes=options.max_memory and round(1e9 * parse_memory(options.max_memory)),
    )
    print_lines(describe_refinement(refine_files(request), outputs))
    return DONE
