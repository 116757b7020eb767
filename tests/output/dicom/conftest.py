"""Source series whose pixels are labels: an output's frames must equal the images they refer to."""

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage, generate_uid

from pipeline.output.dicom import Algorithm
from tests.output.dicom.series import (
    LESION,
    LIVER,
    OBLIQUE,
    image_header,
    positions,
    put_pixels,
)


@pytest.fixture
def algorithm():
    """A model with labels out of order, one of them without a code, one that never occurs."""
    labels = {"lesion": 9, "liver": 2, "odd one": 4, "absent": 300}
    return Algorithm("toy", "0123456789abcdef" * 4, labels, {"liver": LIVER, "lesion": LESION})


@pytest.fixture
def images():
    """Labels of five images of 6 x 7 pixels: 42 bits a frame, so bytes are shared by frames."""
    images = np.random.default_rng(0).choice([0, 0, 2, 4, 9], (5, 6, 7)).astype(np.uint16)
    images[1] = 0
    return images


@pytest.fixture
def make_series(tmp_path):
    """Write a series of single-frame images and return their files, out of order."""

    def make(pixels_NRC, modality="CT", orientation=OBLIQUE, change=None):
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        series = generate_uid(prefix=None)
        files = []
        for number, position in enumerate(positions(orientation, 3.5, len(pixels_NRC))):
            header = image_header(modality, series, number + 1)
            header.ImagePositionPatient = [round(x, 6) for x in position]
            header.ImageOrientationPatient = list(orientation)
            header.PixelSpacing, header.SliceThickness = [1.5, 0.75], 5
            put_pixels(header, pixels_NRC[number])
            if change is not None:
                change(header, number)
            # Names in another order than the images, as archives give them.
            files.append(folder / f"{(number * 3) % len(pixels_NRC)}.dcm")
            header.save_as(files[-1], enforce_file_format=True)
        return sorted(files)

    return make


@pytest.fixture
def make_multi_frame(tmp_path):
    """Write an enhanced CT file, its frames in a mixed order, and return its path."""

    def make(pixels_NRC, order=(2, 0, 4, 1, 3)):
        header = image_header("CT", generate_uid(prefix=None), 1)
        header.SOPClassUID = EnhancedCTImageStorage
        places = positions(OBLIQUE, 3.5, len(pixels_NRC))
        shared, measures, frames = Dataset(), Dataset(), []
        measures.PixelSpacing, measures.SliceThickness = [1.5, 0.75], 5
        shared.PixelMeasuresSequence = Sequence([measures])
        for index in order:
            groups, position, orientation = Dataset(), Dataset(), Dataset()
            position.ImagePositionPatient = [round(x, 6) for x in places[index]]
            orientation.ImageOrientationPatient = list(OBLIQUE)
            groups.PlanePositionSequence = Sequence([position])
            # Per frame, as some scanners do, though all frames have the same.
            groups.PlaneOrientationSequence = Sequence([orientation])
            frames.append(groups)
        header.SharedFunctionalGroupsSequence = Sequence([shared])
        header.PerFrameFunctionalGroupsSequence = Sequence(frames)
        header.NumberOfFrames = len(frames)
        put_pixels(header, pixels_NRC[list(order)])
        header.save_as(tmp_path / "enhanced.dcm", enforce_file_format=True)
        return tmp_path / "enhanced.dcm"

    return make
