"""Matrices of few bits: an integer for each entry, a scale of one byte for each row and each column.

Units   value = (code * scale(row)) * scale(column), each product rounded to binary32: what every reader computes.
Why     The body of a profile is deflated, so a matrix costs the entropy of its codes, not eight bits an entry: steps decide its
        size. They are chosen where an error can be weighed (fit.py), not from the largest entry of a row.
"""

import dataclasses

import numpy as np

MOST = 127
# s(u) = MANTISSA[u mod 8] * 2^(u div 8 - 16): FORMAT.md, "Log scales".
MANTISSA = np.array([0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7, 0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7], np.uint32).view(np.float32)


def scale(codes: np.ndarray) -> np.ndarray:
    wide = np.asarray(codes).astype(np.int32)
    return np.ldexp(MANTISSA[wide % 8], wide // 8 - 16).astype(np.float32)


def nearest_scale(values: np.ndarray) -> np.ndarray:
    """The code of the nearest scale; outside 2^-16 to 2^15.875 the last one."""
    return np.clip(np.rint(8 * np.log2(np.maximum(values, 1e-30))) + 128, 0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Matrix:
    row: np.ndarray  # uint8 [rows]
    column: np.ndarray  # uint8 [columns]
    code: np.ndarray  # int8 [rows, columns]

    def values(self) -> np.ndarray:
        return (self.code.astype(np.float32) * scale(self.row)[:, None]) * scale(self.column)


def _upper(metric: np.ndarray, damping: float) -> np.ndarray:
    """R, upper, of metric = R R^T; damping adds to the diagonal, in parts of it."""
    damped = metric + damping * np.diag(np.diag(metric)) + 1e-30 * np.eye(len(metric))
    return np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]


def _unit_upper(metric: np.ndarray, damping: float) -> np.ndarray:
    upper = _upper(metric, damping)
    return (upper / np.diag(upper)).astype(np.float32)


def weight_of_rows(metric: np.ndarray, damping: float) -> np.ndarray:
    """What an error in each row weighs, as a factor: between what it weighs alone and what is left when those above it have
    taken over what they can. Steps go with its inverse; either end gave larger matrices (README.md)."""
    return np.sqrt(np.sqrt(np.diag(metric)) * np.diag(_upper(metric, damping)))


def feed_back(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, damping: float) -> np.ndarray:
    """Integers near `values` whose errors E have a small tr(E^T rows E columns): each entry takes over what its row and its
    column have missed so far, as far as the two metrics see it alike.

    damping bounds how far an error may move into directions that a metric hardly knows: too little, and text that was not
    calibrated on pays for it. Entries depend on those above and those to the left, so an antidiagonal is done at once.
    """
    by_row, by_column = _unit_upper(rows, damping).T.copy(), _unit_upper(columns, damping).T.copy()
    np.fill_diagonal(by_row, 0)
    np.fill_diagonal(by_column, 0)
    height, width = values.shape
    codes = np.zeros((height, width), np.float32)
    error = np.zeros((width, height), np.float32)  # turned: what is added up lies in a row
    missed = np.zeros((height, width), np.float32)  # of an entry and, weighed, of those above it
    for antidiagonal in range(height + width - 1):
        first, last = max(0, antidiagonal - width + 1), min(height, antidiagonal + 1)
        i, j = np.arange(first, last), antidiagonal - np.arange(first, last)
        above = np.einsum("ab,ab->a", by_row[first:last, :last], error[j, :last])
        left = np.einsum("ab,ab->a", by_column[j], missed[first:last])
        entry = values[i, j]
        code = np.clip(np.rint(entry + above + left), -MOST, MOST)
        codes[i, j], error[j, i], missed[i, j] = code, entry - code, entry - code + above
    return codes


def quantize(values: np.ndarray, row: np.ndarray, column: np.ndarray, metrics: tuple[np.ndarray, np.ndarray] | None = None, damping: float = 0.1) -> Matrix:
    """Steps row[i] * column[j], rounded to log scales and raised where 127 of them would not reach the row's largest entry.

    metrics: the weights of errors, [rows, rows] and [columns, columns], where entries shall take over each other's.
    """
    middle = np.exp(np.mean(np.log(column)))  # columns around 1: rows alone have to fit the range of log scales
    columns, row = nearest_scale(column / middle), row * middle
    reach = np.abs(values / scale(columns)).max(1) / MOST
    rows = nearest_scale(row)
    rows = np.where(reach > scale(rows), np.minimum(nearest_scale(reach).astype(int) + 1, 255), rows).astype(np.uint8)
    steps = scale(rows)[:, None] * scale(columns)
    if metrics is None:
        codes = np.clip(np.rint(values / steps), -MOST, MOST)
    else:
        weights = [s[:, None] * metric * s for s, metric in zip((scale(rows), scale(columns)), metrics, strict=True)]
        codes = feed_back((values / steps).astype(np.float32), *weights, damping)
    return Matrix(rows, columns, codes.astype(np.int8))
