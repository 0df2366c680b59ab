"""Local servers that fail as asked."""

import http.server
import socket
import socketserver
import threading
import time


class Answers(http.server.BaseHTTPRequestHandler):
    """The first part of the path says what to answer: a status, `slow`, `garbage`, `cut`."""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        how = self.path.split("/")[1]
        if how == "slow":
            time.sleep(0.6)
            return
        if how == "cut":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status = int(how) if how.isdigit() else 200
        body = {"garbage": b"<html>sorry</html>", "empty": b"", "half": b'{"prices": [1, 2'}.get(
            how, b"{}"
        )
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = do_GET

    def log_message(self, *args):
        pass


class Quiet(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


class Mail(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 mail\r\n")
        refuse = self.server.refuse
        for line in self.rfile:
            verb = line[:4].upper()
            if verb == b"EHLO" and refuse[0] == "close":
                return
            if verb == refuse[0].encode():
                self.wfile.write(refuse[1].encode() + b"\r\n")
            elif verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                while self.rfile.readline().strip() != b".":
                    pass
                self.wfile.write(b"250 ok\r\n")
            elif verb == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                self.wfile.write(b"250 ok\r\n")


class MailServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    refuse = ("", "")

    def handle_error(self, request, client_address):
        pass


def started(server):
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def web(host="127.0.0.1"):
    server = started(Quiet((host, 0), Answers))
    return f"http://{host}:{server.server_address[1]}"


def mail(verb, answer):
    server = MailServer(("127.0.0.1", 0), Mail)
    server.refuse = (verb, answer)
    return started(server).server_address


def nobody():
    """A port at which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
