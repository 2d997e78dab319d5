"""A message by e-mail, through the server that the environment names.

SMTP_HOST      the server; localhost if it is not set
SMTP_PORT      587 with SMTP_USER, else 25; 465 speaks TLS from the start
SMTP_USER, SMTP_PASSWORD   of the account; sent through TLS alone
SMTP_FROM      the sender; SMTP_USER, or deepdetect@ this machine, if it is not set
"""

import json
import os
import smtplib
import socket
import ssl
from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any

_SECONDS = 5.0
_TLS_PORT = 465


def send(target: str, message: dict[str, Any], environment: Mapping[str, str] = os.environ) -> str:
    """Send a message to ``mailto:ADDRESS,ADDRESS``; return why it is refused for good, or nothing.

    Raises:
        OSError: if a second try may help.
    """
    mail = EmailMessage()
    user = environment.get("SMTP_USER", "")
    mail["Subject"] = " ".join(str(message["text"]).split())
    mail["From"] = environment.get("SMTP_FROM") or user or f"deepdetect@{socket.gethostname()}"
    mail["To"] = ", ".join(target.removeprefix("mailto:").split(","))
    mail.set_content(f"{message['text']}\n\n{json.dumps(message, indent=1)}\n")
    try:
        with _connected(environment) as server:
            if user and not isinstance(server.sock, ssl.SSLSocket):
                return "the SMTP server offers no TLS, and a password is not sent without"
            if user:
                server.login(user, environment.get("SMTP_PASSWORD", ""))
            server.send_message(mail)
    except smtplib.SMTPResponseException as error:
        if error.smtp_code >= 500:
            return f"status {error.smtp_code}"
        raise
    return ""


def _connected(environment: Mapping[str, str]) -> smtplib.SMTP:
    host = environment.get("SMTP_HOST") or "localhost"
    port = int(environment.get("SMTP_PORT") or (587 if environment.get("SMTP_USER") else 25))
    if port == _TLS_PORT:
        return smtplib.SMTP_SSL(host, port, timeout=_SECONDS, context=ssl.create_default_context())
    server = smtplib.SMTP(host, port, timeout=_SECONDS)
    server.ehlo()
    if server.has_extn("starttls"):
        server.starttls(context=ssl.create_default_context())
        server.ehlo()
    return server
