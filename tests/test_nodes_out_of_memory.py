"""A device whose memory is not enough: told in words, nothing is kept, and what fits afterwards trains."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import comfy_bed
import pytest
import test_train_node
import torch
from test_train_node import run

from rlr_core.errors import PlanError

objects, home = test_train_node.objects, test_train_node.home


def test_nothing_of_the_run_is_kept_and_the_next_one_trains(home, objects, monkeypatch):
    network, held, let_go = objects["model"].model.diffusion_model, [], []
    forward = network.forward

    def short(*given: Any, **options: Any) -> Any:
        kept = torch.zeros(1000)
        held.append(weakref.ref(kept))
        if len(held) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*given, **options)

    monkeypatch.setattr(comfy_bed.node_file("out_of_memory"), "unload_all_models", lambda: let_go.append(1))
    with monkeypatch.context() as changes:
        changes.setattr(network, "forward", short)
        with pytest.raises(PlanError, match="memory of the device") as caught:
            run(objects)
    assert held[-1]() is not None and let_go == [1]
    del caught
    gc.collect()
    assert held[-1]() is None
    assert not any(module._forward_hooks for module in network.modules())
    assert run(objects)[2]["loss"]


def test_it_is_told_also_where_the_texts_or_the_networks_have_no_room(home, objects, monkeypatch):
    def full(*given: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for holder, name in (
        (objects["clip"], "encode_from_tokens_scheduled"),
        (comfy_bed.node_file("training"), "load_models_gpu"),
        (objects["vae"].first_stage_model, "decode"),
    ):
        with monkeypatch.context() as changes:
            changes.setattr(holder, name, full)
            with pytest.raises(PlanError, match="memory of the device"):
                run(objects, when_queued_again=comfy_bed.node_file("going_on").FRESH)
