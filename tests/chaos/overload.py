"""Offered load at twice capacity."""


def overload(lab) -> list:
    return []
