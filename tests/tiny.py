"""The description of a model that takes no time."""

DESCRIPTION = {
    "name": "test",
    "channels": [{"name": "T1", "modality": "MR"}],
    "labels": {"organ": 1},
    "study": {},
    "preprocessing": {"spacing_mm": [1, 1, 1], "crop_margin_mm": 0, "channels": [{"kind": "mr"}]},
    "network": {"features": [2, 4, 4]},
    "inference": {"window": [8, 8, 8], "precision": "fp32"},
    "postprocessing": {},
    "fingerprint": {
        "num_cases": 1,
        "spacing_mm": [1, 1, 1],
        "spacing_range_mm": [[1, 1, 1], [1, 1, 1]],
        "shape": [9, 9, 9],
        "channels": [],
    },
    "training": {},
}
