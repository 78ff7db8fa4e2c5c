class BadResults(Exception):
    pass


def write_report(a, b, c): ...
