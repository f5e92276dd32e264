"""Money: `AsyncHive.ledger`. Amounts are whole µCPT, a CPT being 1,000,000 of them.

What pays carries an Idempotency-Key, drawn unless given: so that what is asked again after a lost answer pays once.
"""

import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

import msgspec

from web import ledger_schema as schema
from web.client.codec import encode, name
from web.client.http import Http

_balance_of = msgspec.json.Decoder(schema.BalanceAnswer).decode
_transfer_of = msgspec.json.Decoder(schema.TransferAnswer).decode
_shown_of = msgspec.json.Decoder(schema.TransferView).decode
_pending_of = msgspec.json.Decoder(schema.PendingAnswer).decode
_entries_of = msgspec.json.Decoder(schema.EntriesAnswer).decode
_statement_of = msgspec.json.Decoder(schema.StatementAnswer).decode
_overview_of = msgspec.json.Decoder(schema.OverviewAnswer).decode
_accounts_of = msgspec.json.Decoder(schema.AccountsAnswer).decode
_dispute_of = msgspec.json.Decoder(schema.DisputeAnswer).decode
_disputes_of = msgspec.json.Decoder(schema.DisputesAnswer).decode


class AsyncLedger:
    """Asks through its client. Errors are HiveErrors. `user`: another than oneself, for who may see everybody's."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def _post(self, path: str, body: Any, key: str | None = None) -> bytes:
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key or secrets.token_hex(16)
        return await self._http.ask("POST", path, None, encode(body), headers)

    async def _get(self, path: str, **query: str) -> bytes:
        return await self._http.ask("GET", path, [(name, value) for name, value in query.items() if value])

    async def balance(self, user: str = "", *, min_position: str = "") -> schema.BalanceAnswer:
        """What a user has."""
        return _balance_of(await self._get("/v1/ledger/balance", user=user, min_position=min_position))

    async def transfer(
        self,
        to: str,
        amount: int,
        memo: str = "",
        *,
        kind: Literal["transfer", "tip", "refund"] = "transfer",
        cites: str = "",
        pending_s: float = 0,
        idempotency_key: str = "",
    ) -> schema.TransferAnswer:
        """Pay a user, by id or name; on disk when this returns. `pending_s`: only set it aside, for so long."""
        body = schema.TransferBody(to, amount, [], kind, memo, cites, pending_s)
        return _transfer_of(await self._post("/v1/ledger/transfers", body, idempotency_key))

    async def transfer_many(
        self, legs: Sequence[schema.Leg], memo: str = "", *, pending_s: float = 0, idempotency_key: str = ""
    ) -> schema.TransferAnswer:
        """Pay several users, all or none."""
        body = schema.TransferBody("", 0, [*legs], memo=memo, pending_s=pending_s)
        return _transfer_of(await self._post("/v1/ledger/transfers", body, idempotency_key))

    async def pay(
        self,
        kind: Literal["grant", "issue", "payout", "correction"],
        source: str,
        legs: Sequence[schema.Leg],
        memo: str = "",
        *,
        cites: str = "",
        idempotency_key: str = "",
    ) -> schema.TransferAnswer:
        """Pay out of the hive's own accounts, all or none."""
        body = schema.PaymentBody(kind, source, [*legs], memo, cites)
        return _transfer_of(await self._post("/v1/ledger/payments", body, idempotency_key))

    async def show(self, transfer: str) -> schema.TransferView:
        """A transfer, or another fact that moved money."""
        return _shown_of(await self._get(f"/v1/ledger/transfers/{name(transfer)}"))

    async def pending(self) -> list[schema.TransferView]:
        """Transfers that wait."""
        return _pending_of(await self._get("/v1/ledger/pending")).transfers

    async def post(self, transfer: str, amount: int = 0) -> schema.TransferAnswer:
        """Carry a pending transfer through, or `amount` of it."""
        return _transfer_of(await self._post(f"/v1/ledger/transfers/{name(transfer)}/post", schema.PostBody(amount)))

    async def void(self, transfer: str) -> schema.TransferAnswer:
        """Give back what a pending transfer set aside."""
        return _transfer_of(await self._http.ask("POST", f"/v1/ledger/transfers/{name(transfer)}/void"))

    async def entries(self, user: str = "", *, cursor: str = "", limit: int = 100) -> schema.EntriesAnswer:
        """What came and went, newest first."""
        return _entries_of(await self._get("/v1/ledger/transfers", user=user, cursor=cursor, limit=str(limit)))

    async def statement(
        self, month: str = "", user: str = "", *, cursor: str = "", limit: int = 100
    ) -> schema.StatementAnswer:
        """A month (2026-11; this one)."""
        query = {"month": month, "user": user, "cursor": cursor, "limit": str(limit)}
        return _statement_of(await self._get("/v1/ledger/statement", **query))

    async def statement_csv(self, month: str = "", user: str = "") -> bytes:
        """A month as CSV."""
        return await self._get("/v1/ledger/statement.csv", month=month, user=user)

    async def overview(self) -> schema.OverviewAnswer:
        """Where all CPT are."""
        return _overview_of(await self._get("/v1/ledger/overview"))

    async def accounts(self, after: str = "", *, limit: int = 1000) -> schema.AccountsAnswer:
        """Accounts that have something, by name."""
        return _accounts_of(await self._get("/v1/ledger/accounts", after=after, limit=str(limit)))

    async def export(self) -> AsyncGenerator[bytes]:
        """The ledger's log as lines to audit, in pieces; one try. Raises HiveError, or what breaks a connection."""
        async with self._http.stream("/v1/ledger/export") as answer:
            async for piece in answer.content.iter_any():
                yield piece

    async def dispute(
        self, cites: str, reason: str = "", *, amount: int = 0, against: str = ""
    ) -> schema.DisputeAnswer:
        """Dispute what oneself paid."""
        return _dispute_of(await self._post("/v1/ledger/disputes", schema.DisputeBody(cites, reason, amount, against)))

    async def disputes(self) -> list[schema.DisputeView]:
        """Open disputes."""
        return _disputes_of(await self._get("/v1/ledger/disputes")).disputes

    async def rule(
        self,
        dispute: str,
        ruling: Literal["upheld", "rejected"],
        *,
        amount: int = 0,
        source: str = "",
        reason: str = "",
    ) -> schema.DisputeAnswer:
        """Rule on a dispute."""
        body = schema.RulingBody(ruling, amount, source, reason)
        return _dispute_of(await self._post(f"/v1/ledger/disputes/{name(dispute)}/rule", body))

    async def withdraw(self, dispute: str) -> schema.DisputeAnswer:
        """Withdraw one's own dispute."""
        return _dispute_of(await self._http.ask("POST", f"/v1/ledger/disputes/{name(dispute)}/withdraw"))
