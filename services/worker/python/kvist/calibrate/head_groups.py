"""Wide layers are cut into groups of neighbouring heads, each coded as a model of its own: how, and the rows of each.

Shapes  rows [..., 2 d], K | V of all heads; of a group [..., 2 d / groups], K | V of its own.
Why     A matrix costs the square of its channels in the profile and in time, and twice as wide a group says little more of each
        channel. Groups of about 256 channels keep profiles of large models under what nodes take (README.md).
"""

from collections.abc import Sequence

import numpy as np

from .profile import MOST_HEADS, MOST_WIDTH, ProfileError

HEAD_DIMS = (64, 80, 96, 128, 256)  # of blocks
USUAL_WIDTH = 256  # channels of a group, as nearly as the heads can be cut


def count(name: str, heads: int, head_dim: int, group_heads: int) -> int:
    """How many groups; group_heads: heads of each, 0 to choose. Refuses, before hours of work, what the library would not take."""
    if head_dim not in HEAD_DIMS:
        raise ProfileError(f"{name} has heads of {head_dim}; codec q takes {', '.join(map(str, HEAD_DIMS))}")
    if heads > MOST_HEADS:
        raise ProfileError(f"{name} has {heads} KV heads; codec q takes at most {MOST_HEADS}")
    fitting = [each for each in range(1, heads + 1) if heads % each == 0 and each * head_dim <= MOST_WIDTH]
    if not group_heads:
        group_heads = min(fitting, key=lambda each: abs(np.log(each * head_dim / USUAL_WIDTH)))
    if group_heads not in fitting:
        raise ProfileError(f"{name} has {heads} KV heads of {head_dim}: groups may have {', '.join(map(str, fitting))}, not {group_heads}")
    return heads // group_heads


def part(rows: np.ndarray, groups: int, group: int) -> np.ndarray:
    """One group's rows of all heads'."""
    return rows.reshape(*rows.shape[:-1], 2, groups, -1)[..., group, :].reshape(*rows.shape[:-1], -1)


def join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """All heads' rows of the groups'."""
    sides = [part.reshape(*part.shape[:-1], 2, -1) for part in parts]
    return np.concatenate(sides, -1).reshape(*parts[0].shape[:-1], -1)
