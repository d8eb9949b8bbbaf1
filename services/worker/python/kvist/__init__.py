"""Kvist: a distributed store for quantized KV-cache blocks of LLM inference. See Client."""

from .client import Client, GetResult, KvistError, Match, Namespace, PutResult, Tls

__all__ = ["Client", "GetResult", "KvistError", "Match", "Namespace", "PutResult", "Tls"]
