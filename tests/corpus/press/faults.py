class PressError(RuntimeError):
    pass


class StorageFailed(PressError):
    pass


class BadManuscript(PressError):
    pass


class Upstream(PressError):
    def __init__(self, status, body):
        super().__init__(f"upstream answered {status}: {body}")
