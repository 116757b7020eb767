"""From a data set to a configuration to train with, and the reasons for each setting."""

from pipeline.planning.compose import Plan
from pipeline.planning.plan import plan
from pipeline.planning.rules import PlanConfig
from pipeline.planning.writer import summary_of

__all__ = ["Plan", "PlanConfig", "plan", "summary_of"]
