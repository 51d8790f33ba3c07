"""A family beyond SD 1.x, 2.x and XL, a flow: on the real ComfyUI where COMFYUI_DIR is set, else on a stand-in."""

from __future__ import annotations

from typing import Any

import comfy_bed
import pytest
import test_nodes as contract
import torch
from safetensors import safe_open


@pytest.fixture(scope="module")
def objects() -> Any:
    return comfy_bed.objects("sd3")


given = contract.given


def test_a_flow_is_trained_and_saved_under_the_names_that_comfyui_reads_for_any_model(given, tmp_path):
    seen: list[Any] = []
    with torch.inference_mode():
        config = contract.config(output__evaluation=4)
        comfy_bed.train(given, config, tmp_path / "run", seen.append, rewards=contract.REWARDS)
    assert (lifted := contract.risen(seen)) > 0, lifted
    network = given.model.model.diffusion_model
    with safe_open(tmp_path / "run" / "rlr-lora.safetensors", "pt") as file:
        stems = {name.split(".lora_")[0].removesuffix(".alpha") for name in file.keys()}  # noqa: SIM118
        facts = file.metadata()
    paths = {stem.removeprefix("diffusion_model.") for stem in stems}
    modules = dict(network.named_modules())
    attention = {
        name for name, module in modules.items() if "attn" in name and hasattr(module, "in_features")
    }
    assert paths == attention
    assert facts["modelspec.architecture"] == "stable-diffusion-3/lora"
    told = list(comfy_bed.node_file("training").notes_on(given))
    assert len(told) == 1 and "experimental, for ComfyUI only" in told[0]


def test_each_text_keeps_its_own_length_and_each_sample_is_asked_for_alone(given, monkeypatch):
    denoiser, lengths = comfy_bed.node_file("denoiser"), []
    sampled = denoiser.sampling_function

    def watched(model: Any, x: Any, sigma: Any, *others: Any, **options: Any) -> Any:
        conds = [each[0]["model_conds"]["c_crossattn"] for each in others[:2]]
        lengths.append((len(x), *(getattr(each, "cond", each).shape[1] for each in conds)))
        return sampled(model, x, sigma, *others, **options)

    texts = ["a cat", " ".join(["a dog"] * 40)]
    with contract.held(given, prompts__train=texts) as model:
        own = [len(_text(given.clip, text)) for text in ("blurry", *texts)]
        walk = _chain(model, texts)
        monkeypatch.setattr(denoiser, "sampling_function", watched)
        x = torch.randn(2, *model.latent_shape((64, 64)))
        both = walk.predict(x, torch.tensor([1, 1]), torch.arange(2)).sample.detach()
        alone = walk.predict(x[:1], torch.tensor([1]), torch.arange(1)).sample.detach()
    assert lengths == [(1, own[0], own[1]), (1, own[0], own[2]), (1, own[0], own[1])]
    assert torch.equal(both[:1], alone)


def _text(clip: Any, text: str) -> Any:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0][0]


def _chain(model: Any, prompts: list[str]) -> Any:
    from rlr_core.chain import Chain, Conditioning, SampleNoise

    conditioning = Conditioning.constant(model.encode(prompts, ["blurry"] * 2), contract.STEPS)
    noise = SampleNoise([1, 2], model.latent_shape((64, 64)), torch.float32, "cpu")
    return Chain(model.denoiser(3.0), model.schedule(contract.STEPS, None), conditioning, noise, 0.0)


def test_masks_of_texts_stay_whole_numbers():
    """Lumina 2 makes tensors as long as they say, and takes others for masks that are added."""

    class Masked:
        def tokenize(self, text: str) -> str:
            return text

        def encode_from_tokens_scheduled(self, text: str) -> Any:
            mask = torch.ones(1, len(text), dtype=torch.long)
            return [[torch.randn(1, len(text), 4).half(), {"attention_mask": mask}]]

    rows = comfy_bed.node_file("texts").Texts(Masked(), ["a", "a cat"], own_length=True).rows(["a", "a cat"])
    assert rows["attention_mask"].dtype == torch.long and rows["attention_mask"].sum(1).tolist() == [1, 5]
    assert rows["cross_attn"].dtype == torch.float32
