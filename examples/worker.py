"""The Python twin of worker.cc: stores the KV of a prompt, finds it again, reads it back. Usage: worker.py CLUSTER_FILE"""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "services/worker/python"))
import kvist  # noqa: E402


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: worker.py CLUSTER_FILE", file=sys.stderr)
        return 2
    namespace = kvist.Namespace(model="example.py", layers=4, heads=2, head_dim=64, tokens_per_block=16)
    # An engine's pages: bf16 bits. Here 100 tokens: six full blocks and a rest.
    tokens = np.arange(100)
    kv = (np.arange(2 * 4 * 2 * 100 * 64) % 0x4000).astype(np.uint16).reshape(2, 4, 2, 100, 64)
    back = np.zeros_like(kv)
    with kvist.Client(sys.argv[1], namespace, codec="raw16") as client:
        put = client.put(tokens, kv)
        with client.match(tokens) as match:
            got = client.get(tokens, back, 0, match.blocks)
    print(f"stored {put.stored + put.present} blocks, matched {match.tokens} tokens, read {got.blocks} blocks back")
    same = np.array_equal(kv[:, :, :, : got.tokens], back[:, :, :, : got.tokens])
    return 0 if put.failed == 0 and got.blocks == 6 and same else 1


if __name__ == "__main__":
    sys.exit(main())
