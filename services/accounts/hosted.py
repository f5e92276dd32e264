"""People as one process hosts them: the keyring, sessions, passwords, mail and the flows over them, put together.

Make it before the access view runs. Keys of users are needed wherever text is sealed or opened, so a process that only
runs a pool hosts this too.
"""

import asyncio
import hashlib
import secrets

from events.base import UserId
from events.log import Log
from infra.database import Database
from infra.failure_store import FailureStore
from infra.folder import Folder
from infra.human_check import check_of
from infra.identity_store import IdentityStore
from infra.keyring import Keyring
from infra.mail import Mailer
from infra.passwords import Passwords
from infra.sealing import KEY_BYTES
from infra.secret_store import SecretStore
from infra.settings import Settings
from services.access import AccessView
from services.accounts.failures import WINDOW_S, Failures
from services.accounts.humans import Humans
from services.accounts.mails import Mails
from services.accounts.people import People, PeopleParts, Registration
from services.accounts.service import AccountsClient
from services.accounts.sessions import Sessions
from services.accounts.task_secrets import TaskSecrets
from services.accounts.tidying import KeyUses, Tidying


class PeopleHost:
    """Everything about people in one process. `run` it, and `close` it at the end. Raises SettingsError."""

    def __init__(
        self,
        folder: Folder,
        settings: Settings,
        database: Database,
        log: Log,
        accounts: AccountsClient,
        access: AccessView,
        passwords: Passwords | None = None,
    ) -> None:
        self.access = access
        self._passwords = passwords or Passwords()
        self.store = IdentityStore(database)
        root = folder.data_key()
        self.keyring = Keyring(root, folder.directory("keys") / "people.sqlite", self.store, self._erased)
        self.sessions = Sessions(folder.secret("session.key", lambda: secrets.token_bytes(KEY_BYTES)), self.store)
        mailer = Mailer(settings.smtp_url, settings.mail_from) if settings.smtp_url else None
        mail_key = hashlib.blake2b(key=root, person=b"hive.mail", digest_size=KEY_BYTES).digest()
        self.mails = Mails(self.store, mail_key, self.keyring.open, mailer, settings.public_url)
        humans = Humans(check_of(settings), required=settings.human_check_required)
        failures = Failures(FailureStore(database, self.store, WINDOW_S * 1000))
        parts = PeopleParts(
            self.store,
            self.keyring,
            self.sessions,
            self._passwords,
            accounts,
            access,
            self.mails,
            failures,
            humans,
        )
        self.registration: Registration = settings.registration
        self.human_check_site_key = settings.human_check_site_key
        self.people = People(parts, settings.registration)
        ids_key = hashlib.blake2b(key=root, person=b"hive.secret", digest_size=KEY_BYTES).digest()
        self.secrets = TaskSecrets(SecretStore(database, self.store), self.keyring, ids_key)
        self.uses = KeyUses()
        self.tidying = Tidying(parts, log, self.uses)

    def _erased(self, user: UserId) -> bool:
        known = self.access.state.users.get(user)
        return known is not None and known.state == "erased"

    async def run(self) -> None:
        """Keep keys and rows in step with the log and with Postgres, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.keyring.run())
            group.create_task(self.tidying.run())

    async def close(self) -> None:
        """End what is under way, and close files and threads."""
        await self.mails.close()
        self._passwords.close()
        self.keyring.close()
