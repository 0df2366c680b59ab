class ShopError(Exception):
    """Base of the shop's own errors."""


class PaymentFailed(ShopError):
    def __init__(self, reason, order):
        super().__init__(f"order {order}: {reason}")
        self.reason = reason


class SyncError(ShopError):
    pass


class NotConfigured(ShopError):
    pass


class UnknownCity(ShopError):
    pass
