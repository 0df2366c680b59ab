import smtplib
from email.message import EmailMessage


def compose(to, subject):
    message = EmailMessage()
    message["From"] = "shop@example.com"
    message["To"] = to
    message["Subject"] = subject
    message.set_content("hello")
    return message


def send(host, port, to, subject):
    with smtplib.SMTP(host, port, timeout=0.5) as client:
        client.send_message(compose(to, subject))


def newsletter(host, port, people):
    for person in people:
        send(host, port, person, "News")


def receipt(host, port, order):
    send(host, port, order["email"], f"Receipt {order['id']}")
