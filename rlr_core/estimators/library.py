"""Named estimators: RLR as published, RLR with reweighted sub-chains, its ablations and its rivals.

Each is a composition of the parts; what a name does not use of the settings is listed nowhere and reported when set.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from rlr_core.config import EstimatorConfig
from rlr_core.errors import ConfigError
from rlr_core.estimators.base import Estimator
from rlr_core.estimators.baseline import Baseline, LeaveOneOut, NoBaseline, RunningMean
from rlr_core.estimators.by_ranking import ByRanking
from rlr_core.estimators.critic import ControlVariate, LookaheadAlone, LookaheadBaseline
from rlr_core.estimators.draft_lv import LowVarianceDraft
from rlr_core.estimators.first_order import FirstOrder
from rlr_core.estimators.flow_bp import SurrogateChain
from rlr_core.estimators.forward_process import ForwardProcess
from rlr_core.estimators.half_order import Antithetic, HalfOrder, Plain, SubChainEnd
from rlr_core.estimators.learned_critic import LearnedCritic
from rlr_core.estimators.lookahead import Lookahead
from rlr_core.estimators.policy_gradient import ClippedPolicyGradient
from rlr_core.estimators.refl import RewardFeedback
from rlr_core.estimators.rlr import RecursiveLikelihoodRatio
from rlr_core.estimators.rsm import RewardScoreMatching
from rlr_core.estimators.sub_chains import AllSubChains, OneSubChain, RandomStart, SubChainPolicy
from rlr_core.estimators.zeroth_order import ZerothOrder

BASELINES: dict[str, type[Baseline]] = {
    "leave_one_out": LeaveOneOut,
    "running_mean": RunningMean,
    "none": NoBaseline,
}

POLICIES: dict[str, Callable[[int], SubChainPolicy]] = {
    "uniform": OneSubChain,
    "learned": lambda length: OneSubChain(length, learned=True),
    "all": AllSubChains,
}
ENDS: dict[str, Callable[[EstimatorConfig], SubChainEnd]] = {
    "plain": lambda config: Plain(),
    "antithetic": lambda config: Antithetic(config.branches),
    "lookahead_baseline": lambda config: LookaheadBaseline(),
    "control_variate": lambda config: ControlVariate(config.branches),
    "lookahead": lambda config: LookaheadAlone(),
}


@dataclass(frozen=True)
class NamedEstimator:
    """A named estimator: what it is, the settings it reads besides `chunk`, and how it is built from them."""

    summary: str
    uses: tuple[str, ...]
    build: Callable[[EstimatorConfig, int], Estimator]


def _composed(
    config: EstimatorConfig,
    *,
    first: FirstOrder | None = None,
    half: HalfOrder | None = None,
    zeroth: ZerothOrder | None = None,
) -> Estimator:
    return RecursiveLikelihoodRatio(first, half, zeroth, BASELINES[config.baseline](), config.chunk)


def _tail(config: EstimatorConfig) -> FirstOrder | None:
    return FirstOrder.last(config.first_order_steps, rerun=config.rerun) if config.first_order_steps else None


def _published(config: EstimatorConfig, steps: int) -> Estimator:
    half = HalfOrder(RandomStart(config.sub_chain_length), Plain())
    return _composed(config, first=FirstOrder.last(1), half=half, zeroth=ZerothOrder(config.sigma))


def _rlr(config: EstimatorConfig, steps: int) -> Estimator:
    half = HalfOrder(POLICIES[config.sub_chains](config.sub_chain_length), ENDS[config.sub_chain_end](config))
    return _composed(config, first=_tail(config), half=half)


def _v1(config: EstimatorConfig, steps: int) -> Estimator:
    return _composed(config, first=FirstOrder.last(1))


def _v2(config: EstimatorConfig, steps: int) -> Estimator:
    half = HalfOrder(RandomStart(config.sub_chain_length), Plain())
    return _composed(config, first=FirstOrder.last(1), half=half)


def _v3(config: EstimatorConfig, steps: int) -> Estimator:
    return _composed(config, first=FirstOrder.last(1), zeroth=ZerothOrder(config.sigma))


def _half(config: EstimatorConfig, steps: int) -> Estimator:
    half = HalfOrder(AllSubChains(config.sub_chain_length), ENDS[config.sub_chain_end](config))
    return _composed(config, half=half)


def _zeroth(config: EstimatorConfig, steps: int) -> Estimator:
    return _composed(config, zeroth=ZerothOrder(config.sigma, config.antithetic))


def _reinforce(config: EstimatorConfig, steps: int) -> Estimator:
    return _composed(config, half=HalfOrder(AllSubChains(1), Plain()))


def _ddpo(config: EstimatorConfig, steps: int) -> Estimator:
    baseline = BASELINES[config.baseline]()
    return ClippedPolicyGradient(config.clip, baseline, config.batch_reuse, config.normalise, config.chunk)


def _nft(config: EstimatorConfig, steps: int) -> Estimator:
    baseline = BASELINES[config.baseline]()
    return ForwardProcess(config.draws, baseline, config.proximity, config.batch_reuse, config.chunk)


def _learned(config: EstimatorConfig, steps: int) -> Estimator:
    window = (config.starts_from, config.starts_until)
    return LearnedCritic(window, config.draws, config.unit, config.chunk)


def _draft(config: EstimatorConfig, steps: int) -> Estimator:
    return _composed(config, first=FirstOrder.last(config.first_order_steps, rerun=config.rerun))


def _alignprop(config: EstimatorConfig, steps: int) -> Estimator:
    return _composed(config, first=FirstOrder(1, steps, config.rerun))


def _draft_lv(config: EstimatorConfig, steps: int) -> Estimator:
    return LowVarianceDraft(config.draws, config.chunk)


def _refl(config: EstimatorConfig, steps: int) -> Estimator:
    return RewardFeedback(config.first_order_steps, config.chunk)


def _lookahead(config: EstimatorConfig, steps: int) -> Lookahead:
    window = (config.starts_from, config.starts_until)
    measured = config.starts == "measured"
    return Lookahead(config.sub_chain_length, window, config.unit, config.chunk, measured, config.looks)


def _rsm(config: EstimatorConfig, steps: int) -> Estimator:
    return RewardScoreMatching(config.draws, config.chunk)


def _flow_bp(config: EstimatorConfig, steps: int) -> SurrogateChain:
    return SurrogateChain(config.first_order_steps, config.bridge, config.unit, config.chunk)


def _auto(config: EstimatorConfig, steps: int) -> Estimator:
    return ByRanking(_lookahead(replace(config, starts="measured"), steps), _flow_bp(config, steps))


def _full(config: EstimatorConfig, steps: int) -> Estimator:
    return _composed(config, first=FirstOrder.last(steps, rerun=True))


ESTIMATORS: dict[str, NamedEstimator] = {
    "rlr": NamedEstimator(
        "RLR with reweighted sub-chains: first order on the last K steps, half order on sub-chains before them; unbiased",
        (
            "first_order_steps",
            "sub_chain_length",
            "sub_chain_end",
            "branches",
            "sub_chains",
            "baseline",
            "stages",
            "rerun",
        ),
        _rlr,
    ),
    "published": NamedEstimator(
        "RLR as published, eq. 11: K = 1, one sub-chain, one-sided zeroth order on all other steps; unbiased",
        ("sub_chain_length", "sigma", "baseline", "stages"),
        _published,
    ),
    "v1": NamedEstimator("the paper's ablation V1: first order K = 1 only; biased", (), _v1),
    "v2": NamedEstimator(
        "the paper's ablation V2: no zeroth order; biased", ("sub_chain_length", "baseline", "stages"), _v2
    ),
    "v3": NamedEstimator("the paper's ablation V3: no half order; unbiased", ("sigma", "baseline"), _v3),
    "half": NamedEstimator(
        "half order on every sub-chain; unbiased, needs no reward gradient",
        ("sub_chain_length", "sub_chain_end", "branches", "baseline", "stages"),
        _half,
    ),
    "zeroth": NamedEstimator(
        "zeroth order on every step; unbiased for the smoothed objective",
        ("sigma", "antithetic", "baseline"),
        _zeroth,
    ),
    "reinforce": NamedEstimator(
        "the likelihood ratio of every step; unbiased, needs no reward gradient",
        ("baseline", "stages"),
        _reinforce,
    ),
    "ddpo": NamedEstimator(
        "REINFORCE with PPO's clip and reused rollouts",
        ("clip", "batch_reuse", "normalise", "baseline"),
        _ddpo,
    ),
    "nft": NamedEstimator(
        "DiffusionNFT, and at its first use of a rollout AWM: predictions at noised pictures move towards the better ones; "
        "biased, needs no reward gradient",
        ("draws", "proximity", "batch_reuse", "baseline"),
        _nft,
    ),
    "learned_critic": NamedEstimator(
        "the lookahead of a small network that learns the reward while it is used; biased, needs no reward gradient",
        ("draws", "starts_from", "starts_until", "stages", "unit"),
        _learned,
    ),
    "draft": NamedEstimator(
        "DRaFT-K: truncated back-propagation through the last K steps; biased",
        ("first_order_steps", "rerun"),
        _draft,
    ),
    "draft_lv": NamedEstimator(
        "DRaFT-LV: the last step's gradient at several noisings of the finished picture; biased",
        ("draws",),
        _draft_lv,
    ),
    "refl": NamedEstimator(
        "ReFL: the gradient of the picture predicted at one of the last K steps; biased",
        ("first_order_steps",),
        _refl,
    ),
    "lookahead": NamedEstimator(
        "the gradient of the picture predicted at the end of a sub-chain anywhere in the chain; biased, cheap",
        ("sub_chain_length", "starts", "starts_from", "starts_until", "looks", "stages", "unit"),
        _lookahead,
    ),
    "rsm": NamedEstimator(
        "RSM: the gradients of pictures predicted at several steps of a rollout, weighed by signal to noise; biased",
        ("draws",),
        _rsm,
    ),
    "alignprop": NamedEstimator(
        "AlignProp: truncated back-propagation with K drawn from 1 to T; biased", ("rerun",), _alignprop
    ),
    "flow_bp": NamedEstimator(
        "FlowBP: the finished picture's gradient, back along K of the chain's steps, one at a time run again; biased",
        ("first_order_steps", "bridge", "stages", "unit"),
        _flow_bp,
    ),
    "auto": NamedEstimator(
        "lookahead where predicted pictures, as measured first, rank early as finished ones do; flow_bp elsewhere; biased",
        ("first_order_steps", "bridge", "sub_chain_length", "looks", "stages", "unit"),
        _auto,
    ),
    "full_bp": NamedEstimator(
        "back-propagation through the whole chain, one step at a time run again; exact", (), _full
    ),
}


def named(name: str) -> NamedEstimator:
    """The estimator of that name. Raises `ConfigError` naming the nearest."""
    if name not in ESTIMATORS:
        near = difflib.get_close_matches(name, ESTIMATORS, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"estimator.name = '{name}'", f"one of {', '.join(ESTIMATORS)}", f"did you mean '{near}'?"
        )
    return ESTIMATORS[name]


def build(config: EstimatorConfig, steps: int) -> Estimator:
    """The estimator `config` names, for chains of `steps` steps. Raises `ConfigError` for an unknown name."""
    return named(config.name).build(config, steps)


def unread_settings(config: EstimatorConfig) -> list[str]:
    """Settings that the named estimator does not read. Raises `ConfigError` for an unknown name."""
    read = {"name", "chunk", *named(config.name).uses}
    return [f.name for f in fields(config) if f.name not in read]


def ignored_settings(config: EstimatorConfig) -> list[str]:
    """Of those, the ones that were changed from their default."""
    default = EstimatorConfig()
    return [name for name in unread_settings(config) if getattr(config, name) != getattr(default, name)]
