"""failbetter inside an application that serves: ASGI (FastAPI, Starlette), WSGI (Flask, Django)."""
