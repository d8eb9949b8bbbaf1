"""The model's own tokenizer, built from the GGUF's metadata: byte-level BPE, digits apart, ChatML turns."""

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTROL_TOKEN = 3  # in tokenizer.ggml.token_type


class ChatTokenizer:
    def __init__(self, metadata: dict[str, Any]):
        tokens = metadata["tokenizer.ggml.tokens"]
        types = metadata["tokenizer.ggml.token_type"]
        merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
        self._tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        self._tokenizer.decoder = decoders.ByteLevel()
        control = [AddedToken(t, special=True) for t, kind in zip(tokens, types, strict=True) if kind == CONTROL_TOKEN]
        self._tokenizer.add_special_tokens(control)
        self.end_of_turn: int = metadata["tokenizer.ggml.eos_token_id"]

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def chat(self, system: str, user: str) -> list[int]:
        """A system and a user turn, and the opening of the assistant's."""
        return self.encode(
            f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
        )
