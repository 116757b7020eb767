"""What an exported bundle carries along: the parts of a segmentation that MONAI has no word for.

`pipeline.export.bundle` writes these modules, and those that they import, into a bundle's folder
`scripts`. So they may import nothing but torch, MONAI, nibabel, numpy and scipy, and modules of
Trivox that do not either.
"""
