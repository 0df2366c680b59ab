import functools
import time


def retrying(times):
    def decorate(call):
        @functools.wraps(call)
        def wrapper(*args, **kwargs):
            for left in range(times, 0, -1):
                try:
                    return call(*args, **kwargs)
                except (OSError, ValueError):
                    if left == 1:
                        raise
                    time.sleep(0)
            return None

        return wrapper

    return decorate


def logged(call):
    @functools.wraps(call)
    def inner(*args, **kwargs):
        return call(*args, **kwargs)

    return inner


def allowed_for(role):
    def decorate(call):
        @functools.wraps(call)
        def wrapper(user, *args):
            if role not in user["roles"]:
                raise PermissionError(f"{user['name']} may not do this: needs {role}")
            return call(user, *args)

        return wrapper

    return decorate
