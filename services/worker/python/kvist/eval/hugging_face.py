"""Any causal language model of Hugging Face as an engine, where torch and transformers are installed.

The exact prefix is the model's own cache rounded to bf16; judged tokens keep their own KV as the model computes it, in every run alike.
"""

import hashlib
import importlib.util
import inspect
from typing import Any

import numpy as np

from ..models.smollm2 import bf16
from .engines import EngineError

OBSERVED = "kvist_observed"
CHUNK = 512  # tokens of one forward pass: what bounds the memory of attention and logits


def _need_packages() -> None:
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineError(f"models of Hugging Face need {' and '.join(missing)}: pip install torch transformers, "
                          "or use --model smollm2, which needs neither")  # fmt: skip


def _refuse_other_caches(config: Any) -> None:
    """What is judged is one K and one V a token, layer and head; a window masks, it drops nothing. REQUIRES: the text part."""
    others = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if others:
        raise EngineError(f"this model has layers of kind {', '.join(sorted(others))}; only attention, full or sliding, can be judged")
    if getattr(config, "kv_lora_rank", None):
        raise EngineError("this model keeps latent KV (MLA); only keys and values by head can be judged")


def _show_queries_to(seen: list[np.ndarray]) -> None:
    """Registers attention that appends its scaled queries, [heads, tokens, head_dim], to `seen`."""
    import transformers
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def observed(module: Any, query: Any, *rest: Any, scaling: float | None = None, **named: Any) -> Any:
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        seen.append((query[0].float() * factor).cpu().numpy())
        return sdpa_attention_forward(module, query, *rest, scaling=scaling, **named)

    transformers.AttentionInterface.register(OBSERVED, observed)
    transformers.AttentionMaskInterface.register(OBSERVED, sdpa_mask)


class HuggingFaceEngine:
    def __init__(self, name: str):
        _need_packages()
        import torch
        import transformers

        self._torch, self._cache_class = torch, transformers.DynamicCache
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(name)
            model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise EngineError(f"{name} cannot be loaded: {error}") from error
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.eval().to(self.device)
        # Newer releases of transformers call it cache.
        self._takes_cache_as = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        config = model.config.get_text_config()
        _refuse_other_caches(config)
        self.name = name
        self.layers = config.num_hidden_layers
        self.kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.digest = self._weights_digest()

    def _weights_digest(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(self._torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens)

    def _cache(self, kv: np.ndarray) -> Any:
        """kv as the model's own cache."""
        return self.cache(self._torch.from_numpy(bf16.to_float(kv) if kv.dtype == np.uint16 else kv).to(self.device))

    def cache(self, values: Any) -> Any:
        """values: a tensor, float32, on the device; what is computed with the cache can be derived by it."""
        cache = self._cache_class()
        for layer in range(self.layers):
            cache.update(values[0, layer][None].clone(), values[1, layer][None].clone(), layer)
        return cache

    def run(self, ids: Any, cache: Any, **named: Any) -> Any:
        """Logits [tokens, vocabulary] of ids [1, tokens] after what the cache holds, float32; the cache grows by them."""
        return self.model(ids, use_cache=True, **{self._takes_cache_as: cache}, **named).logits[0].float()

    def _kept(self, cache: Any) -> np.ndarray:
        """[2, layers, kv_heads, tokens, head_dim] float32 of the model's own cache."""
        sides = ([getattr(layer, side)[0] for layer in cache.layers] for side in ("keys", "values"))
        return np.stack([self._torch.stack(list(side)).float().cpu().numpy() for side in sides])

    def _forward(self, tokens: list[int], cache: Any, every: bool) -> np.ndarray:
        """Logits of all tokens, or of the last, chunk by chunk; the cache grows by them."""
        rows = []
        with self._torch.inference_mode():
            for first in range(0, len(tokens), CHUNK):
                ids = self._torch.tensor([tokens[first : first + CHUNK]], device=self.device)
                keep = 0 if every else 1
                rows.append(self.run(ids, cache, logits_to_keep=keep).cpu().numpy())
        return np.concatenate(rows) if every else rows[-1]

    def prefill(self, tokens: list[int], wide: bool = False) -> np.ndarray:
        cache = self._cache_class()
        self._forward(tokens, cache, every=False)
        kv = self._kept(cache)
        return kv if wide else bf16.from_float(kv)

    def logits(self, kv: np.ndarray, tokens: list[int], every: bool = True) -> np.ndarray:
        return self._forward(tokens, self._cache(kv), every)

    def queries(self, kv: np.ndarray, tokens: list[int]) -> np.ndarray | None:
        """Shown by an attention function that stands in the place of the model's own for this run; None if the model calls none."""
        seen: list[np.ndarray] = []
        own = self.model.config._attn_implementation
        _show_queries_to(seen)
        self.model.set_attn_implementation(OBSERVED)
        try:
            self._forward(tokens, self._cache(kv), every=False)
        finally:
            self.model.set_attn_implementation(own)
        # A layer calls it once for each chunk.
        return np.stack([np.concatenate(seen[layer :: self.layers], 1) for layer in range(self.layers)]) if seen else None

    def greedy(self, kv: np.ndarray, tokens: list[int], count: int) -> list[int]:
        cache = self._cache(kv)
        said, following = [], tokens
        for _ in range(count):
            token = int(self._forward(following, cache, every=False)[-1].argmax())
            said.append(token)
            following = [token]
        return said
