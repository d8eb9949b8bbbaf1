"""XXH3-64 (seed 0, default secret) in plain Python, after the specification of xxHash 0.8. Slow; for small blocks."""

MASK = (1 << 64) - 1
P32_1, P32_2, P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
P64_1, P64_2, P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P64_4, P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
STRIPE, STRIPES_PER_BLOCK = 64, (192 - 64) // 8


def _r32(b, at):
    return int.from_bytes(b[at:at + 4], "little")


def _r64(b, at):
    return int.from_bytes(b[at:at + 8], "little")


def _swap(value, size):
    return int.from_bytes(value.to_bytes(size, "little"), "big")


def _fold(a, b):
    product = a * b
    return (product & MASK) ^ (product >> 64)


def _rotl(h, bits):
    return ((h << bits) | (h >> (64 - bits))) & MASK


def _avalanche(h):
    h ^= h >> 37
    h = h * 0x165667919E3779F9 & MASK
    return h ^ h >> 32


def _avalanche64(h):
    h ^= h >> 33
    h = h * P64_2 & MASK
    h ^= h >> 29
    h = h * P64_3 & MASK
    return h ^ h >> 32


def _mix16(b, at, secret_at):
    return _fold(_r64(b, at) ^ _r64(SECRET, secret_at), _r64(b, at + 8) ^ _r64(SECRET, secret_at + 8))


def _short(b):
    n = len(b)
    if n == 0:
        return _avalanche64(_r64(SECRET, 56) ^ _r64(SECRET, 64))
    if n <= 3:
        combined = b[0] << 16 | b[n >> 1] << 24 | b[n - 1] | n << 8
        return _avalanche64(combined ^ _r32(SECRET, 0) ^ _r32(SECRET, 4))
    if n <= 8:
        h = (_r32(b, n - 4) + (_r32(b, 0) << 32)) ^ _r64(SECRET, 8) ^ _r64(SECRET, 16)
        h ^= _rotl(h, 49) ^ _rotl(h, 24)
        h = h * 0x9FB21C651E98DF25 & MASK
        h ^= (h >> 35) + n
        h = h * 0x9FB21C651E98DF25 & MASK
        return h ^ h >> 28
    low = _r64(b, 0) ^ _r64(SECRET, 24) ^ _r64(SECRET, 32)
    high = _r64(b, n - 8) ^ _r64(SECRET, 40) ^ _r64(SECRET, 48)
    return _avalanche((n + _swap(low, 8) + high + _fold(low, high)) & MASK)


def _medium(b):
    n = len(b)
    acc = n * P64_1
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            acc += _mix16(b, 16 * i, 32 * i) + _mix16(b, n - 16 * (i + 1), 32 * i + 16)
        return _avalanche(acc & MASK)
    for i in range(8):
        acc += _mix16(b, 16 * i, 16 * i)
    acc = _avalanche(acc & MASK)
    for i in range(8, n // 16):
        acc += _mix16(b, 16 * i, 16 * (i - 8) + 3)
    acc += _mix16(b, n - 16, 136 - 17)
    return _avalanche(acc & MASK)


def _accumulate(acc, b, at, secret_at):
    for i in range(8):
        value = _r64(b, at + 8 * i)
        key = value ^ _r64(SECRET, secret_at + 8 * i)
        acc[i ^ 1] = (acc[i ^ 1] + value) & MASK
        acc[i] = (acc[i] + (key & 0xFFFFFFFF) * (key >> 32)) & MASK


def _long(b):
    n = len(b)
    acc = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1]
    block = STRIPE * STRIPES_PER_BLOCK
    blocks = (n - 1) // block
    for k in range(blocks):
        for s in range(STRIPES_PER_BLOCK):
            _accumulate(acc, b, k * block + s * STRIPE, 8 * s)
        for i in range(8):
            acc[i] = (acc[i] ^ acc[i] >> 47 ^ _r64(SECRET, 128 + 8 * i)) * P32_1 & MASK
    for s in range((n - 1 - blocks * block) // STRIPE):
        _accumulate(acc, b, blocks * block + s * STRIPE, 8 * s)
    _accumulate(acc, b, n - STRIPE, 128 - 7)
    h = n * P64_1
    for i in range(4):
        h += _fold(acc[2 * i] ^ _r64(SECRET, 11 + 16 * i), acc[2 * i + 1] ^ _r64(SECRET, 19 + 16 * i))
    return _avalanche(h & MASK)


def xxh3_64(b):
    if len(b) <= 16:
        return _short(b)
    return _medium(b) if len(b) <= 240 else _long(b)
