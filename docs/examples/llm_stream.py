"""Print what a language model writes, word by word as it comes.

    API_KEY=... python llm_stream.py https://api.example/v1/chat/completions some-model "Why is the sky blue?"

What plugwire does here: `iter_decoded(ServerSentEvents())` gives an event as soon as its last byte is there, whatever
the packets were; `read` bounds the silence between two of them and nothing bounds the whole; leaving the `async with`
ends the answer at once (over HTTP/2 its own stream only), so that nobody pays for words that nobody reads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Callable
from typing import Any

import plugwire
from plugwire.decoders import ServerSentEvents
from plugwire_plugins import BearerAuth

SILENCE = 30.0
"""Seconds between two events after which the model counts as gone."""


async def ask(
    session: plugwire.AsyncSession, url: str, model: str, question: str, said: Callable[[str], object], words: int
) -> dict[str, Any]:
    """Hand each piece of the answer to `said`, at most `words` of them; what the answer cost."""
    usage: dict[str, Any] = {}
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": question}]}
    timeout = plugwire.Timeout(head=60, read=SILENCE)
    headers = {"accept": "text/event-stream"}
    async with session.stream("POST", url, json=body, headers=headers, timeout=timeout) as response:
        if not response.ok:
            await response.read()  # what the server says of its refusal is in the body
            raise plugwire.HTTPStatusError(f"{response.status_code}: {response.text}", response)
        async for event in response.iter_decoded(ServerSentEvents()):
            if event.data == "[DONE]":
                break
            chunk = json.loads(event.data)
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices", ()):
                if text := choice["delta"].get("content"):
                    said(text)
                    words -= 1
            if words <= 0:
                break
    return usage


async def run(url: str, model: str, question: str, key: str, words: int) -> None:
    """One question, its answer on the terminal."""
    async with plugwire.AsyncSession(auth=BearerAuth(key)) as session:
        usage = await ask(session, url, model, question, lambda text: print(text, end="", flush=True), words)
    print(f"\n{usage}" if usage else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("question")
    parser.add_argument("--words", type=int, default=100_000, help="stop after so many pieces")
    options = parser.parse_args()
    asyncio.run(run(options.url, options.model, options.question, os.environ["API_KEY"], options.words))


if __name__ == "__main__":
    main()
