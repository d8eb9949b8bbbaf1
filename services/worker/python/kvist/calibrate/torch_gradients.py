"""Gradients of a Hugging Face model by torch, where it is installed: the engine of kvist.eval, whose cache becomes a leaf."""

import numpy as np

from ..eval.engines import EngineError
from ..eval.hugging_face import HuggingFaceEngine
from . import arithmetic
from .fit import Rope


def rope_of(engine: HuggingFaceEngine) -> Rope:
    """Of a model whose every layer turns all of a head by the same frequencies, which do not depend on the length."""
    rotary = getattr(engine.model.base_model, "rotary_emb", None)
    frequencies = getattr(rotary, "inv_freq", None)
    if frequencies is None or getattr(engine.model.base_model, "rotary_emb_local", None) is not None:
        raise EngineError("calibration needs a model with one RoPE for all layers")
    if len(frequencies) * 2 != engine.head_dim:
        raise EngineError(f"this model turns {2 * len(frequencies)} of {engine.head_dim} channels of a head; calibration needs all turned")
    if getattr(rotary, "rope_type", "default") in ("dynamic", "longrope"):
        raise EngineError(f"RoPE of type {rotary.rope_type} depends on the length: no profile can hold it")
    return Rope(1, arithmetic.turns_of(frequencies.double().cpu().numpy()), float(getattr(rotary, "attention_scaling", 1.0)))


class TorchGradients:
    def __init__(self, engine: HuggingFaceEngine):
        import torch

        self._torch, self._engine = torch, engine
        self.rope = rope_of(engine)
        engine.model.requires_grad_(False)

    def of(self, kv: np.ndarray, following: list[int], samples: int, random: np.random.Generator) -> np.ndarray:
        torch, engine = self._torch, self._engine
        leaf = torch.from_numpy(kv).to(engine.device).requires_grad_()
        ids = torch.tensor([following], device=engine.device)
        with torch.enable_grad():
            logits = engine.run(ids, engine.cache(leaf))
        shares = logits.detach().softmax(-1)
        below = shares.cumsum(-1)
        drawn = []
        for draw in random.random((samples, len(following), 1), np.float32):
            answer = (below < torch.from_numpy(draw).to(engine.device) * below[:, -1:]).sum(-1)
            toward = torch.nn.functional.one_hot(answer, shares.shape[-1]) - shares
            drawn.append(torch.autograd.grad(logits, leaf, toward, retain_graph=True)[0].float().cpu().numpy())
        return np.stack(drawn)
