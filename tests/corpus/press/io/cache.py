import redis


class Cache:
    def __init__(self, port, timeout=0.3):
        self.client = redis.Redis("127.0.0.1", port, socket_timeout=timeout, retry=None)

    def remember(self, key, value):
        self.client.set(f"press:{key}", value)

    def count(self, key):
        return self.client.incr(f"press:{key}")

    def push(self, key, value):
        return self.client.rpush(f"press:{key}", value)

    def recall(self, key):
        return self.client.get(f"press:{key}").decode()
