import time

import requests


class ApiError(Exception):
    def __init__(self, status, text):
        self.status = status
        super().__init__(f"{status}: {text}" if text else str(status))


class Api:
    def __init__(self, base):
        self.base = base
        self.session = requests.Session()

    def _request(self, method, path, **options):
        reply = self.session.request(method, self.base + path, timeout=0.3, **options)
        if reply.status_code == 429:
            raise ApiError(429, "slow down")
        if not reply.ok:
            raise ApiError(reply.status_code, reply.reason)
        return reply.json()

    def sample(self, number):
        return self._request("GET", f"/samples/{number}")

    def submit(self, number, value):
        for attempt in range(3):
            try:
                return self._request("POST", f"/samples/{number}/results", json={"v": value})
            except requests.Timeout:
                if attempt == 2:
                    raise
                time.sleep(0)
        return None

    def submit_stubbornly(self, number, value, left=2):
        try:
            return self._request("POST", f"/samples/{number}/results", json={"v": value})
        except requests.ConnectionError:
            if not left:
                raise
            return self.submit_stubbornly(number, value, left - 1)
