"""The sections of a config: every setting with its default, its comment and its range."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from rlr_core.config.names import lora_name_problem

MOST = sys.float_info.max
"""More than any setting can be."""

Size = tuple[int, int]
"""Width and height of a picture, in pixels."""
Sizes = int | list[int] | list[list[int]]
"""As a config gives sizes: the side of a square (0: the model's own), [width, height], or a list of several [width, height]."""

T = TypeVar("T")
Free = Annotated[T, "free"]
"""A setting that may be changed where a run is resumed; all others stay as the run was made."""
Movable = Annotated[T, "movable"]
"""A setting that names files, which a resumed run may find in another folder under the same name."""

DEVICE = r"auto|cpu|mps|cuda(:\d+)?"
"""What a device's name looks like."""


def setting(
    default: Any,
    comment: str,
    *,
    choices: tuple[str, ...] = (),
    form: str = "",
    problem: Callable[[str], str] = lambda value: "",
    path: bool = False,
    low: float | None = None,
    high: float = MOST,
) -> Any:
    """A config field with its comment; what is allowed are certain values, a form (regular expression), or a range.

    `problem` says why a value is none, "" where it is one. `path` is of settings that name files. Where memory or
    threads grow with a number, its range ends where a mistake begins.
    """
    metadata = {
        "comment": comment, "choices": choices, "form": form, "problem": problem, "path": path, "low": low, "high": high,
    }  # fmt: skip
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ModelConfig:
    """The model that the LoRA is for."""

    checkpoint: Movable[str] = setting(
        "embedded",
        '"embedded", a checkpoint file (.safetensors), or the folder of a diffusers checkpoint',
        path=True,
    )
    vae: Movable[str] = setting(
        "", "a file or folder with another VAE; with none, the checkpoint's own", path=True
    )
    prediction: str = setting(
        "auto",
        "what the network predicts; auto: what the checkpoint says",
        choices=("auto", "epsilon", "v_prediction"),
    )
    zero_snr: str = setting(
        "auto",
        "whether the last noise level is nothing but noise; auto: what the checkpoint says",
        choices=("auto", "yes", "no"),
    )
    clip_skip: int = setting(
        0, "the text encoder's layer that is used, from the end; 0: the checkpoint's own", low=0, high=100
    )
    allow_pickle: bool = setting(False, "read a pickled checkpoint (.ckpt), weights only")
    precision: Free[str] = setting(
        "float32", "of the frozen weights", choices=("float32", "bfloat16", "float16")
    )
    device: Free[str] = setting(
        "auto", "auto, cpu, mps, cuda, or a card by its number, as cuda:1", form=DEVICE
    )
    threads: Free[int] = setting(0, "CPU threads; 0 leaves the choice to torch", low=0, high=512)


@dataclass(frozen=True)
class LoraConfig:
    """The LoRA that is trained."""

    rank: int = setting(8, "", low=1, high=4096)
    alpha: float = setting(8.0, "the LoRA's effect is scaled by alpha / rank", low=1e-6, high=1e6)
    targets: str = setting(
        "attention",
        "the denoiser's layers that get a LoRA",
        choices=("attention", "attention+feedforward", "all"),
    )
    text_encoder: bool = setting(
        False, "a LoRA in the text encoder, too: prompts are then encoded at every step"
    )
    rslora: bool = setting(
        False, "scale by alpha / sqrt(rank) instead: high ranks then learn as fast as low ones"
    )
    dora: bool = setting(
        False, "learn each output's norm, too (DoRA); A1111 and Forge compute it another way"
    )
    start: Movable[str] = setting(
        "", "a LoRA file to go on from; its layers, ranks and alphas replace those above", path=True
    )


@dataclass(frozen=True)
class PromptConfig:
    """What is painted while training, and what progress is measured on."""

    train: list[str] = setting([], "training prompts; with none here and no file, the embedded world's")
    file: str = setting("", "a UTF-8 text file with one training prompt per line", path=True)
    held_out: list[str] = setting(
        [],
        "prompts that are never trained on; with none, a fifth of 10 or more training prompts, or the embedded world's",
    )
    held_out_file: str = setting("", "the same, one per line in a UTF-8 text file", path=True)
    negative: str = setting("", "negative prompt, for guidance")
    boundaries: list[float] = setting(
        [],
        "where the stages of prompts meet: rising fractions of the chain, as [0.333, 0.667]; none: evenly apart",
    )
    by_noise: bool = setting(
        False,
        "boundaries are falling shares of noise instead, as [0.98, 0.8]: the same for any steps and sampler",
    )
    blend: float = setting(
        0.0, "share of the chain over which a stage turns into the next; 0 is at once", low=0, high=1
    )
    wildcards: str = setting("", "folder with a file for each __wildcard__", path=True)
    variants: int = setting(
        16, "texts drawn of a line with {a|b} or __wildcards__, at most", low=1, high=10_000
    )
    syntax: str = setting(
        "host",
        "(emphasis:1.2) and <lora:…> are read without their weights, or letter by letter",
        choices=("host", "literal"),
    )


@dataclass(frozen=True)
class SamplingConfig:
    """The chain that generates pictures, in training and in previews."""

    steps: int = setting(20, "T, denoising steps", low=1, high=10_000)
    eta: float = setting(
        1.0, "noise that each step adds: 1 ancestral, 0 none (then no half-order part)", low=0, high=1
    )
    guidance_scale: float = setting(3.0, "classifier-free guidance; 1 turns it off", low=0)
    size: Sizes = setting(
        0,
        "pixels: the side of a square, [width, height], or several [[w, h], [w, h]] in turn; 0 is the checkpoint's own",
    )

    @property
    def sizes(self) -> list[Size | None]:
        """The sizes that batches have in turn; None is the model's own."""
        given = self.size
        if isinstance(given, int):
            return [(given, given) if given else None]
        sides = [side for pair in given for side in (pair if isinstance(pair, list) else [pair])]
        return [(sides[k], sides[k + 1]) for k in range(0, len(sides), 2)]


@dataclass(frozen=True)
class InferenceConfig:
    """How previews, evaluations and samples are painted; training always uses the chain of [sampling]."""

    sampler: str = setting(
        "chain",
        "chain: as in training; the others are those of diffusers and of hosts",
        choices=("chain", "ddim", "euler", "euler_a", "dpmpp_2m"),
    )
    steps: int = setting(0, "0: as in training", low=0, high=10_000)
    guidance_scale: float = setting(0.0, "0: as in training; 1 turns it off", low=0)


@dataclass(frozen=True)
class RewardConfig:
    """What the LoRA is trained towards, and what only watches."""

    name: Movable[str] = setting(
        "embedded",
        '"embedded", "mix", a published reward (see `rlr rewards`), or "file.py:function", called with (images, prompts)',
        path=True,
    )
    mix: dict[str, float] = setting(
        {}, 'of "mix": parts and weights, as { embedded = 0.7, sharpness = 0.3 }', path=True
    )
    mix_scale: str = setting(
        "running",
        "a part's spread, by which it is divided: of all pictures so far, or of some at the start",
        choices=("running", "start"),
    )
    mix_mean: dict[str, float] = setting({}, "of parts whose mean is not to be measured")
    mix_spread: dict[str, float] = setting({}, "of the same parts: their standard deviation")
    held_out: Movable[str] = setting(
        "auto",
        "scores previews and the report; auto: the embedded scorer, a published reward that is installed and not trained on, "
        "or else the trained reward itself",
        path=True,
    )
    watch: list[str] = setting([], "more rewards that score them, and are never trained on", path=True)
    folder: Free[str] = setting(
        "models/rewards", "where weights of published rewards lie; see `rlr rewards`", path=True
    )
    download: Free[bool] = setting(True, "a published reward's missing weights are fetched when a run starts")
    precision: Free[str] = setting(
        "auto",
        "of a published reward's network; auto is bfloat16 on a GPU that has it, float32 on a CPU",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    chunk: Free[int] = setting(8, "pictures that a published reward scores together", low=1, high=10_000)
    rerun: Free[bool] = setting(False, "less memory for a published reward's gradient, one more forward pass")


@dataclass(frozen=True)
class EstimatorConfig:
    """How the gradient of the expected reward is estimated."""

    name: str = setting("lookahead", "see `rlr estimators`")
    first_order_steps: int = setting(
        4,
        "K, last steps differentiated together with the reward, 0 for none; flow_bp: steps from anywhere",
        low=0,
    )
    bridge: float = setting(
        0.0,
        "flow_bp: how much of a step's Jacobian the gradient goes through; 0 for none, 1 for all",
        low=0,
        high=1,
    )
    sub_chain_length: int = setting(1, "h, network evaluations of a sub-chain that are differentiated", low=1)
    sub_chain_end: str = setting(
        "antithetic",
        "what is made of the reward at a sub-chain's end",
        choices=("plain", "antithetic", "lookahead_baseline", "control_variate", "lookahead"),
    )
    branches: int = setting(1, "antithetic pairs at a sub-chain's end", low=1, high=1000)
    antithetic: bool = setting(True, "zeroth: a second rollout with the opposite perturbation")
    sub_chains: str = setting(
        "uniform",
        "that a picture differentiates: one, drawn with uniform or learned (chunk below batch_size) probabilities, or all",
        choices=("uniform", "learned", "all"),
    )
    baseline: str = setting(
        "leave_one_out",
        "subtracted from rewards that have no antithetic twin",
        choices=("leave_one_out", "running_mean", "none"),
    )
    sigma: float = setting(0.01, "standard deviation of the zeroth order's parameter perturbation", low=1e-12)
    draws: int = setting(
        2,
        "rsm: steps of a rollout; noisings of a finished picture: draft_lv to the last step's level, nft to any",
        low=1,
        high=1000,
    )
    proximity: float = setting(
        1.0, "nft: how near predictions are kept to those of the start of batch_reuse", low=0, high=1e6
    )
    clip: float = setting(1e-4, "ddpo: how far an importance ratio may leave 1", low=0)
    batch_reuse: int = setting(1, "ddpo, nft: gradients taken from one rollout", low=1, high=1000)
    normalise: bool = setting(False, "ddpo: divide advantages by their standard deviation")
    starts: str = setting(
        "set",
        "lookahead: its sub-chains start as set below, or where predicted pictures, as measured first, rank as finished ones",
        choices=("set", "measured"),
    )
    starts_from: float = setting(
        0.1, "lookahead: its sub-chains start between these two fractions of the chain", low=0, high=1
    )
    starts_until: float = setting(0.6, "0 is noise, 1 the finished picture", low=0, high=1)
    looks: int = setting(
        1, "lookahead: sub-chains of each picture, evenly apart in that part of the chain", low=1, high=1000
    )
    stages: list[str] = setting(
        [],
        'sub-chains from these stages of the prompts alone, as ["coarse"] or ["1", "2"]; the gradient of others is left out',
    )
    unit: bool = setting(
        True, "lookahead, flow_bp: each chunk's gradient is scaled to length 1; best with chunk = 1"
    )
    rerun: Free[bool] = setting(False, "first order: less memory, K more forward passes")
    chunk: Free[int] = setting(
        1, "pictures that go through the network together; divides training.batch_size", low=1, high=10_000
    )


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation."""

    iterations: Free[int] = setting(40, "", low=1)
    batch_size: int = setting(4, "pictures per iteration", low=1, high=10_000)
    step: str = setting(
        "rate",
        "how long Adam's steps are: as learning_rate says, or as far as gradients agree and a trust region of kl allows",
        choices=("rate", "trust"),
    )
    learning_rate: Free[float] = setting(2e-3, "of Adam, with step = rate", low=0, high=1)
    kl: Free[float] = setting(
        1e-3,
        "with step = trust: nats, for each number of a latent, that a step may move a picture's chain by where gradients agree",
        low=1e-12,
        high=1e3,
    )
    max_kl: Free[float] = setting(
        0.3,
        "nats, for each number of a latent, that training may take pictures' chains from where it found them; 0 for no limit",
        low=0,
        high=1e3,
    )
    backtrack: Free[bool] = setting(
        True,
        "where a check shows pictures worse than at the start: back to the best LoRA, and on by half the steps, half as far",
    )
    schedule: Free[str] = setting(
        "constant", "of the steps' length; cosine falls to 0", choices=("constant", "cosine")
    )
    prompts_per_batch: int = setting(
        4, "different prompts in a batch; divides batch_size", low=1, high=10_000
    )
    weighing: str = setting(
        "signal",
        "of the gradient's parts: by measured signal against noise, or all alike (unbiased)",
        choices=("signal", "equal"),
    )
    max_grad_norm: float = setting(1.0, "the gradient is scaled down to this norm; 0 for never", low=0)
    seed: int = setting(0, "", low=0)
    ema: float = setting(
        0.0,
        "previews, evaluations and the file use the LoRA's running mean with this decay, such as 0.95; 0: the latest",
        low=0,
        high=0.9999,
    )
    max_skipped: int = setting(
        5, "iterations in a row that may be skipped for NaN or inf before the run stops", low=1
    )


@dataclass(frozen=True)
class MemoryConfig:
    """What is done to fit the card; `rlr plan` tells what each saves and costs."""

    plan: Free[str] = setting(
        "check",
        "before training: nothing, refuse what cannot fit, or choose settings that fit",
        choices=("off", "check", "auto"),
    )
    budget: Free[float] = setting(0.0, "GB that the run may use; 0 is what the card has free", low=0)
    autocast: Free[str] = setting(
        "off", "precision that a denoiser of float32 computes in", choices=("off", "bfloat16", "float16")
    )
    checkpoint_denoiser: Free[bool] = setting(
        False, "gradient checkpointing: a third more time for less memory"
    )
    decoder: Free[str] = setting(
        "keep",
        "for the way back: keep all, run blocks again, or one picture at a time, too",
        choices=("keep", "rerun", "slices"),
    )
    offload: Free[str] = setting(
        "none",
        "kept in main memory while unused: nothing, the text encoder, or also VAE and reward",
        choices=("none", "text", "all"),
    )
    optimizer: str = setting("adam", "adam8bit needs bitsandbytes", choices=("adam", "adam8bit"))
    painted: Free[int] = setting(
        8, "pictures of a preview or evaluation that are painted together", low=1, high=10_000
    )


@dataclass(frozen=True)
class OutputConfig:
    """What a run leaves behind, and how often."""

    name: str = setting("rlr-lora", "name of the LoRA file, without its ending", problem=lora_name_problem)
    format: Free[str] = setting(
        "auto",
        "of its keys; auto: that which most hosts read, kohya for Stable Diffusion",
        choices=("auto", "kohya", "diffusers", "comfyui"),
    )
    precision: Free[str] = setting("float32", "of its weights", choices=("float32", "float16", "bfloat16"))
    preview_every: Free[int] = setting(
        10, "iterations between previews; 0 for only the first and the last", low=0
    )
    previews: Free[int] = setting(4, "pictures of a preview, at fixed prompts and seeds", low=1, high=1000)
    evaluation: int = setting(
        64, "held-out (prompt, seed) pairs scored before and after; 0 for none", low=0, high=100_000
    )
    checkpoint_every: Free[int] = setting(10, "iterations between checkpoints", low=1)
    keep_checkpoints: Free[int] = setting(2, "newest checkpoints that stay on disk", low=1)
    keep_loras: Free[int] = setting(
        0, "iterations between LoRA files that are kept, as NAME-000010.safetensors; 0 for none", low=0
    )
    lora: Free[str] = setting(
        "last",
        "which is evaluated and written at the end: the last one, or the best by held-out score",
        choices=("last", "best"),
    )
    trackers: Free[list[str]] = setting(
        [],
        "that show the run, too, each in a package of its own; offline unless its own variables say otherwise",
        choices=("tensorboard", "wandb", "trackio"),
    )


@dataclass(frozen=True)
class AlarmConfig:
    """The alarm: the trained reward or the held-out score falls, or others or the diversity do while the trained one rises."""

    action: Free[str] = setting(
        "warn",
        "go on; save and stop; or end with the best LoRA so far",
        choices=("warn", "stop", "rollback"),
    )
    pictures: int = setting(
        16,
        "held-out (prompt, seed) pairs, the first of output.evaluation's, scored at every preview; all of them in doubt",
        low=0,
    )
    false_alarms: float = setting(0.05, "probability of a false alarm in a whole run", low=1e-9, high=1)


@dataclass(frozen=True)
class RunConfig:
    """One run, whole."""

    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    alarm: AlarmConfig = field(default_factory=AlarmConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
