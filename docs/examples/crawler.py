"""Crawl a site with 500 tasks over a bounded number of connections, and report its broken links.

    python crawler.py https://example.org/ --pages 2000

What plugwire does here: one session for all tasks, whose pool makes 500 tasks share 20 connections (or one, over
HTTP/2) and lets nobody overtake; retries for what may pass by itself; a deadline for each page; redirects that are
followed and told; a body that is left unread when it is no page, or too long.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass, field
from html.parser import HTMLParser

import plugwire

TASKS = 500
CONNECTIONS = 20
LARGEST_PAGE = 2 * 1024 * 1024


class Links(HTMLParser):
    """The targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = {"a": "href", "link": "href", "img": "src", "script": "src", "iframe": "src"}.get(tag)
        self.found.extend(value for name, value in attrs if name == wanted and value)


@dataclass
class Report:
    """What became of each URL. broken: by URL, what is wrong with it, and the page that has the link."""

    pages: int = 0
    bytes: int = 0
    broken: dict[str, tuple[str, str]] = field(default_factory=dict)


class Crawl:
    """One crawl: URLs that wait, URLs that were seen, and what came of them."""

    def __init__(self, session: plugwire.AsyncSession, start: plugwire.URL, pages: int) -> None:
        self.session = session
        self.origin = start.origin
        self.left = pages
        self.report = Report()
        self._seen = {start.copy_with(fragment=None)}
        self._waiting: asyncio.Queue[tuple[plugwire.URL, str]] = asyncio.Queue()
        self._waiting.put_nowait((start, "the command line"))

    async def run(self) -> Report:
        """Crawl until nothing waits any more."""
        tasks = [asyncio.create_task(self._work()) for _ in range(TASKS)]
        await self._waiting.join()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return self.report

    async def _work(self) -> None:
        while True:
            url, page = await self._waiting.get()
            try:
                await self._visit(url)
            except plugwire.Error as error:
                self.report.broken[str(url)] = (f"{type(error).__name__}: {error}", page)
            finally:
                self._waiting.task_done()

    async def _visit(self, url: plugwire.URL) -> None:
        async with self.session.stream("GET", url) as response:
            response.raise_for_status()
            landed = response.url or url
            if landed.origin != self.origin or "html" not in (response.headers.get("content-type") or ""):
                return  # it is there; what it links to is not our business
            text = await self._text(response)
        self.report.pages += 1
        links = Links()
        links.feed(text)
        for reference in links.found:
            self._follow(landed, reference)

    async def _text(self, response: plugwire.AsyncResponse) -> str:
        pieces: list[str] = []
        size = 0
        async for piece in response.iter_text():
            pieces.append(piece)
            size += len(piece)
            if size > LARGEST_PAGE:
                break  # leaving the `async with` ends the response
        self.report.bytes += size
        return "".join(pieces)

    def _follow(self, page: plugwire.URL, reference: str) -> None:
        try:
            url = page.join(reference.strip()).copy_with(fragment=None)
        except plugwire.InvalidURL as error:
            self.report.broken[reference] = (str(error), str(page))
            return
        if url.origin == self.origin and url not in self._seen and self.left > 0:
            self.left -= 1
            self._seen.add(url)
            self._waiting.put_nowait((url, str(page)))


async def crawl(start: str, pages: int) -> Report:
    """Crawl from `start`, at most `pages` further pages of its origin."""
    async with plugwire.AsyncSession(
        plugins=["retries"],
        timeout=plugwire.Timeout(head=30, read=10),
        limits=plugwire.Limits(max_connections_per_origin=CONNECTIONS),
        headers={"accept": "text/html"},
    ) as session:
        return await Crawl(session, plugwire.URL(start), pages).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--pages", type=int, default=1000, help="how many further pages at most (default: 1000)")
    options = parser.parse_args()
    report = asyncio.run(crawl(options.url, options.pages))
    print(f"{report.pages} pages, {report.bytes} characters")
    for url, (what, page) in sorted(report.broken.items()):
        print(f"broken: {url} ({what}), linked from {page}")


if __name__ == "__main__":
    main()
