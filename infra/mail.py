"""Mail, handed in to a server by SMTP (smtplib in a thread). TLS always, but to a server on this machine."""

import asyncio
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import make_msgid
from urllib.parse import unquote, urlsplit

SEND_S_MAX = 20.0
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
PORTS = {"smtp": 587, "smtps": 465}


class MailFailed(Exception):
    """The server could not be reached, or did not take the mail."""


class Mailer:
    """Sends from one address through the server at `url`, such as smtp://name:password@mail.example.org:587."""

    def __init__(self, url: str, sender: str) -> None:
        self._url, self._sender = urlsplit(url), sender

    async def send(self, to: str, subject: str, text: str) -> None:
        """Send a mail of plain text. Raises MailFailed."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._sender, to, subject
        message["Message-ID"] = make_msgid(domain=self._sender.rpartition("@")[2])
        message.set_content(text)
        try:
            await asyncio.to_thread(self._send, message)
        except (smtplib.SMTPException, OSError, UnicodeError) as error:
            raise MailFailed(f"mail could not be handed in: {type(error).__name__}: {error}") from error

    def _send(self, message: EmailMessage) -> None:
        host = self._url.hostname or "localhost"
        port, local = self._url.port or PORTS.get(self._url.scheme, 587), host in LOOPBACK
        context = ssl.create_default_context()
        if self._url.scheme == "smtps":
            server = smtplib.SMTP_SSL(host, port, timeout=SEND_S_MAX, context=context)
        else:
            server = smtplib.SMTP(host, port, timeout=SEND_S_MAX)
        with server:
            if self._url.scheme != "smtps":
                server.ehlo()
                if server.has_extn("starttls") or not local:
                    server.starttls(context=context)
            if self._url.username:
                server.login(unquote(self._url.username), unquote(self._url.password or ""))
            server.send_message(message)
