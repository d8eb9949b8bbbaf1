"""Kvist: a distributed store for quantized KV-cache blocks of LLM inference. See Client; codec encodes without a cluster."""

from . import codec
from .client import Client, GetResult, KvistError, Match, Namespace, PutResult, Tls

__all__ = ["Client", "GetResult", "KvistError", "Match", "Namespace", "PutResult", "Tls", "codec"]
