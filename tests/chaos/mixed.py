"""All kinds of harm at once."""


def mixed(lab) -> list:
    return []
