"""Gradient estimators of the expected reward: objects of one signature, `estimator(problem, batch) -> Estimate`."""

from rlr_core.estimators.base import Estimator
from rlr_core.estimators.baseline import Baseline, LeaveOneOut, NoBaseline, RunningMean
from rlr_core.estimators.estimate import Estimate, Part
from rlr_core.estimators.first_order import FirstOrder
from rlr_core.estimators.half_order import HalfOrder
from rlr_core.estimators.library import ESTIMATORS, build, ignored_settings
from rlr_core.estimators.policy_gradient import ClippedPolicyGradient
from rlr_core.estimators.problem import Batch, Problem, RewardFunction
from rlr_core.estimators.rlr import RecursiveLikelihoodRatio
from rlr_core.estimators.sub_chains import AllSubChains, OneSubChain, RandomStart
from rlr_core.estimators.zeroth_order import ZerothOrder

__all__ = [
    "ESTIMATORS", "AllSubChains", "Baseline", "Batch", "ClippedPolicyGradient", "Estimate", "Estimator", "FirstOrder",
    "HalfOrder", "LeaveOneOut", "NoBaseline", "OneSubChain", "Part", "Problem", "RandomStart",
    "RecursiveLikelihoodRatio", "RewardFunction", "RunningMean", "ZerothOrder", "build", "ignored_settings",
]  # fmt: skip
