"""Synthetic CT and MR cohorts with exact labels, made from a seed.

The default run trains on the CT cohort when there is no data; tests use it and the head, and plans
are tried on the other kinds. Anatomy is analytic (`shapes`, and a module for each kind: mm, body
frame), a scanner samples it on a grid and adds blur, noise and offsets (`scanner`), and `cohort`
writes the files that any other data set has.
"""

from pipeline.phantom.cohort import PhantomConfig, make_cohort

__all__ = ["PhantomConfig", "make_cohort"]
