"""What jobs cost: quotes and the price list, as `AsyncHive.costs`. Amounts in µCPT."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from events.spec import JobSpec
from web.client.http import Query
from web.costs_schema import PricesAnswer, PricesBody, PricesSetAnswer, QuotesAnswer

_quotes_of = msgspec.json.Decoder(QuotesAnswer).decode
_prices_of = msgspec.json.Decoder(PricesAnswer).decode
_set_of = msgspec.json.Decoder(PricesSetAnswer).decode


class _Ask(Protocol):
    def __call__(self, method: str, path: str, query: Query | None = None, body: Any = None) -> Awaitable[bytes]: ...


class AsyncCosts:
    """Asks through its client. Errors are HiveErrors."""

    def __init__(self, ask: _Ask) -> None:
        self._ask = ask

    async def quote(self, specs: Sequence[JobSpec]) -> QuotesAnswer:
        """What these jobs would cost together and each, and what is missing; nothing is handed in."""
        return _quotes_of(await self._ask("POST", "/v1/quotes", None, list(specs)))

    async def prices(self) -> PricesAnswer:
        """The price list."""
        return _prices_of(await self._ask("GET", "/v1/prices"))

    async def set_prices(self, rates: Mapping[str, int]) -> PricesSetAnswer:
        """Set these prices over the usual ones; none: the usual ones. For admins."""
        return _set_of(await self._ask("PUT", "/v1/prices", None, PricesBody(dict(rates))))
