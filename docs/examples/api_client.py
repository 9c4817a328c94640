"""A client for a JSON API: a token that is refreshed when it expires, retries that place no order twice, pages.

    API_REFRESH_TOKEN=... python api_client.py https://api.example/v1 "3 boxes of nails"

What plugwire does here: `BearerAuth` runs one refresh for all threads that need it, and its token goes to this API's
origin only; `Retries` repeats what is safe to repeat, and a POST only because it has an Idempotency-Key; the whole
call, back-off and refresh included, ends with its `timeout`.
"""

from __future__ import annotations

import argparse
import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import plugwire
from plugwire.protocols import Call
from plugwire_plugins import BearerAuth, Retries


class Shop:
    """The API's nouns and verbs; one session below. Use it in a `with`; threads may share it."""

    def __init__(self, base_url: str, refresh_token: str, **options: Any) -> None:
        self._refresh_token = refresh_token
        self._token_url = plugwire.URL(base_url).copy_with(path="/oauth/token")
        self._session = plugwire.Session(
            base_url=base_url,
            auth=BearerAuth(refresh=self._refresh),
            plugins=[Retries(max_retries=4)],
            timeout=30,
            **options,
        )

    def __enter__(self) -> Shop:
        return self

    def __exit__(self, *error: object) -> None:
        self._session.close()

    async def _refresh(self, call: Call) -> tuple[str, float]:
        """A new access token, and the seconds that it is good for (RFC 6749, 6)."""
        form = {"grant_type": "refresh_token", "refresh_token": self._refresh_token}
        response = await call.send(plugwire.Request("POST", self._token_url, data=form))
        granted = response.raise_for_status().json()
        return granted["access_token"], granted["expires_in"]

    def products(self) -> Iterator[dict[str, Any]]:
        """All products, page by page as they are asked for."""
        url: str | None = "products"
        while url is not None:
            page = self._session.get(url).raise_for_status()
            yield from page.json()
            following = page.links.get("next")
            url = str(page.url.join(following["url"])) if following and page.url else None

    def stock(self, product: str) -> int:
        """How many there are."""
        return int(self._session.get(f"products/{product}/stock").raise_for_status().json()["count"])

    def order(self, text: str) -> str:
        """Place an order, once, however often it must be sent."""
        key = {"idempotency-key": str(uuid.uuid4())}
        response = self._session.post("orders", json={"text": text}, headers=key)
        if response.status_code == 422:
            raise ValueError(response.json()["detail"])
        return str(response.raise_for_status().json()["id"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("base_url")
    parser.add_argument("order", help="what to order, in words")
    options = parser.parse_args()
    with Shop(options.base_url, os.environ["API_REFRESH_TOKEN"]) as shop, ThreadPoolExecutor(16) as threads:
        names = [product["name"] for product in shop.products()]
        for name, count in zip(names, threads.map(shop.stock, names), strict=True):
            print(f"{count:6} {name}")
        print("order", shop.order(options.order))


if __name__ == "__main__":
    main()
