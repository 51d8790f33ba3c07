"""Where predicted pictures can stand for finished ones: where their rewards rank pictures of one prompt alike.

    τ_i = mean over pairs of sign(R(x̂_i) − R(x̂_i'))·sign(R(x_T) − R(x_T')),   pictures with the same prompt

Kendall's rank correlation, within prompts: some prompts are easy and some are hard, and a prediction that knew only which would
rank pictures of different ones well. It depends on the checkpoint, on the reward and on T: on four small checkpoints τ
came above 0.4 between a tenth and nine tenths of the chain (docs/evidence).
"""

from __future__ import annotations

import torch
from torch import Tensor

ALIKE = 0.4
"""The least τ: seven pairs of ten are in the right order."""
FEWEST = 12
"""Pairs that differ; from fewer nothing is told."""


def agreement(predicted: Tensor, finished: Tensor) -> Tensor | None:
    """τ of each step, (T,) float64; None where too few pairs differ. NaN scores are in no pair.

    Args:
        predicted: (prompts, pictures of each, T) rewards of the predictions.
        finished: (prompts, pictures of each) rewards of the same pictures in the end.
    """
    order = _signs(finished)
    differing = int(order.count_nonzero())
    if differing < FEWEST:
        return None
    return (_signs(predicted) * order[..., None]).sum((0, 1)) / differing


def trusted(tau: Tensor) -> range:
    """The steps that starts are drawn from: of those from which on τ stays above `ALIKE`, the earlier half.

    Later ones cost more and know less of the chain. τ is from few pairs, and smoothed over three steps. The last step's
    prediction is the finished picture, so that there is always one.
    """
    padded = torch.cat([tau[:1], tau, tau[-1:]])
    smooth = padded.unfold(0, 3, 1).mean(1)
    poor = (smooth[:-1] < ALIKE).nonzero().flatten().tolist()
    first = poor[-1] + 1 if poor else 0
    return range(first, first + (len(tau) - first + 1) // 2)


def _signs(scores: Tensor) -> Tensor:
    """Of the differences of each pair of pictures, (prompts, pairs, …) float64; 0 for equal and for NaN."""
    one, other = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1)
    return (scores[:, one] - scores[:, other]).double().sign().nan_to_num()
