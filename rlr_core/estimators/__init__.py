"""Gradient estimators of the expected reward: objects of one signature, `estimator(problem, batch) -> Estimate`."""

from rlr_core.estimators.base import Estimator
from rlr_core.estimators.baseline import Baseline, LeaveOneOut, NoBaseline, RunningMean
from rlr_core.estimators.collective import Alone, Collective
from rlr_core.estimators.critic import ControlVariate, LookaheadAlone, LookaheadBaseline
from rlr_core.estimators.draft_lv import LowVarianceDraft
from rlr_core.estimators.estimate import Estimate, Part
from rlr_core.estimators.first_order import FirstOrder
from rlr_core.estimators.gain import Gain
from rlr_core.estimators.half_order import Antithetic, HalfOrder, Plain, SubChainEnd
from rlr_core.estimators.library import ESTIMATORS, build, ignored_settings, unread_settings
from rlr_core.estimators.policy_gradient import ClippedPolicyGradient
from rlr_core.estimators.problem import Batch, Problem, RewardFunction
from rlr_core.estimators.refl import RewardFeedback
from rlr_core.estimators.rlr import RecursiveLikelihoodRatio
from rlr_core.estimators.sub_chains import AllSubChains, OneSubChain, RandomStart
from rlr_core.estimators.zeroth_order import ZerothOrder

__all__ = [
    "ESTIMATORS", "AllSubChains", "Alone", "Antithetic", "Baseline", "Batch", "ClippedPolicyGradient", "Collective",
    "ControlVariate", "Estimate",
    "Estimator", "FirstOrder", "Gain", "HalfOrder", "LeaveOneOut", "LookaheadAlone", "LookaheadBaseline", "LowVarianceDraft",
    "NoBaseline", "OneSubChain", "Part", "Plain", "Problem", "RandomStart", "RecursiveLikelihoodRatio", "RewardFeedback",
    "RewardFunction", "RunningMean", "SubChainEnd", "ZerothOrder", "build", "ignored_settings",
    "unread_settings",
]  # fmt: skip
