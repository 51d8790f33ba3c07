"""The nodes, as workflows and people call them. It imports nothing: it is read where something is missing, too."""

TITLES = {
    "RLRTrain": "RLR: train a LoRA towards a reward",
    "RLRPrompts": "RLR: prompts",
    "RLRStagePrompts": "RLR: prompt by stages",
    "RLRStageConditioning": "RLR: conditioning by stages",
    "RLREstimator": "RLR: estimator",
    "RLREstimatorAdvanced": "RLR: estimator (advanced)",
    "RLRSettings": "RLR: settings",
    "RLRRewardPickscore": "RLR: reward PickScore",
    "RLRRewardImagereward": "RLR: reward ImageReward",
    "RLRRewardHpsv2": "RLR: reward HPSv2",
    "RLRRewardHpsv21": "RLR: reward HPSv2.1",
    "RLRRewardAesthetic": "RLR: reward Aesthetic",
    "RLRRewardClipscore": "RLR: reward CLIPScore",
    "RLRRewardJpegCompressibility": "RLR: reward JPEG compressibility",
    "RLRRewardJpegIncompressibility": "RLR: reward JPEG incompressibility",
    "RLRRewardSharpness": "RLR: reward Sharpness",
    "RLRRewardOwn": "RLR: reward of your own (black box)",
    "RLRRewardCombine": "RLR: combine rewards",
    "RLRScore": "RLR: score images",
    "RLRRewardCurve": "RLR: reward curve",
    "RLRBeforeAfter": "RLR: before and after",
    "RLRSaveLora": "RLR: save LoRA",
}
TRAINING = {
    "iterations": "training.iterations",
    "batch_size": "training.batch_size",
    "learning_rate": "training.learning_rate",
    "rank": "lora.rank",
    "steps": "sampling.steps",
    "cfg": "sampling.guidance_scale",
    "held_out_pairs": "output.evaluation",
    "preview_every": "output.preview_every",
    "seed": "training.seed",
    "lora_name": "output.name",
}
"""Input of RLR: train → setting."""
