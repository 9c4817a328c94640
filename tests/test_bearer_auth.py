"""Bearer tokens: as they are, and got anew, once for all calls that need one."""

from __future__ import annotations

import functools
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

import plugwire
from fake_time import FakeTime
from plugwire import HTTPStatusError, Limits, Request, Response, TotalTimeout, UsageError
from plugwire.testing import MockTransport, Server
from plugwire_plugins import BearerAuth, Retries
from plugwire_plugins.shared_value import SharedValue

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugwire.protocols import Call
    from worlds import World

URL = "http://h.example/x"
VERSIONS = ("http/1.1", "h2")
UNAUTHORIZED = {"WWW-Authenticate": 'Bearer realm="x", error="invalid_token"'}


class Site:
    """A handler that takes the newest token only; POST /token gives the next one."""

    def __init__(self, *, life: float | None = None) -> None:
        self.life = life
        self.lock = threading.Lock()
        self.issued = 0
        self.revoked = False
        self.seen: list[str | None] = []

    def __call__(self, request: Request) -> Response:
        with self.lock:
            field = request.headers.get("authorization")
            if request.url.path == "/token":
                assert field is None, "the request for a token went through the auth"
                self.issued += 1
                return Response(200, json={"access_token": f"token-{self.issued}", "expires_in": self.life})
            self.seen.append(field)
            if self.revoked or field != f"Bearer token-{self.issued}":
                return Response(401, headers=UNAUTHORIZED, text="no")
            return Response(200, text="come in")


async def refresh(call: Call) -> str | tuple[str, float]:
    """By a side request to the same site."""
    url = plugwire.URL(f"{call.origin}/token")
    answer = (await call.send(Request("POST", url))).raise_for_status().json()
    return answer["access_token"] if answer["expires_in"] is None else (answer["access_token"], answer["expires_in"])


# -- a token that stays --------------------------------------------------------------------------------------------


async def test_a_token_is_sent_as_it_is_and_a_401_is_returned(world: World) -> None:
    mock = MockTransport(lambda request: Response(401))
    async with world.session(transports=[mock], auth=BearerAuth("mF_9.B5f-4.1JqM")) as session:
        assert (await session.get(URL)).status_code == 401
        await session.get(URL, headers={"Authorization": "Basic 1"})
    assert [call.headers["authorization"] for call in mock.calls] == ["Bearer mF_9.B5f-4.1JqM", "Basic 1"]


@pytest.mark.parametrize("wrong", ["", "a b", "a\n", "a,b", "=", "a=b", "\u00e9", "a|b", b"abc", 17])
def test_what_cannot_be_sent_is_refused_and_not_shown(wrong: Any) -> None:
    with pytest.raises(UsageError) as caught:
        BearerAuth(wrong)
    assert not wrong or repr(wrong) not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"refresh": "x"}, {"token": refresh}, {"refresh": refresh, "leeway": -1}, {"token": "a", "leeway": "1"}],
)
def test_what_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        BearerAuth(**wrong)


def test_nothing_of_it_is_shown() -> None:
    assert "secret" not in repr(BearerAuth("secret"))
    with plugwire.Session(auth=BearerAuth("secret")) as session:
        assert "secret" not in str(session.explain(URL))


# -- a token that is got anew --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_it_is_got_before_the_first_request_and_again_after_a_401(world: World, version: str) -> None:
    site = Site()
    with Server(site, http_versions=(version,)) as server:
        async with world.session(auth=BearerAuth(refresh=refresh), http_versions=(version,)) as session:
            assert (await session.get(server.url)).ok
            assert (await session.get(server.url)).ok
            assert (site.issued, len(site.seen)) == (1, 2)
            site.issued = 7
            response = await session.post(server.url, content=b"data")
            assert response.ok and response.connection.reused
    assert site.issued == 8
    assert site.seen[2:] == ["Bearer token-1", "Bearer token-8"]
    assert [call.content for call in server.calls if call.method == "POST" and call.url.path == "/"] == [b"data"] * 2


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("first", [None, "old"])
async def test_a_hundred_callers_at_once_get_one(world: World, version: str, first: str | None) -> None:
    site = Site()
    with Server(site, http_versions=(version,)) as server:
        auth = BearerAuth(first, refresh=refresh)
        async with world.session(auth=auth, http_versions=(version,), limits=Limits(max_connections=8)) as session:

            async def ask() -> bool:
                return (await session.get(server.url)).ok  # type: ignore[no-any-return]

            assert await world.gather(*[ask] * 100) == [True] * 100
    assert site.issued == 1
    assert site.seen.count("Bearer token-1") == 100


async def test_each_session_has_its_own(world: World) -> None:
    site, auth = Site(), BearerAuth(refresh=refresh)
    for _ in range(2):
        async with world.session(transports=[MockTransport(site)], auth=auth) as session:
            assert (await session.get(URL)).ok
            assert (await session.derive(headers={"x": "1"}).get(URL)).ok
    assert site.issued == 2


def plain(call: Call) -> str:
    return "token-0"


async def awaited(call: Call) -> str:
    return "token-0"


class PlainCallable:
    def __call__(self, call: Call) -> str:
        return "token-0"


class AsyncCallable:
    async def __call__(self, call: Call) -> str:
        return "token-0"


@pytest.mark.parametrize(
    "given",
    [
        plain,
        awaited,
        PlainCallable(),
        AsyncCallable(),
        functools.partial(plain),
        functools.partial(awaited),
        lambda call: awaited(call),
        lambda call: ("token-0", 5),
    ],
)
async def test_every_kind_of_callable(world: World, given: Callable[[Call], Any]) -> None:
    async with world.session(transports=[MockTransport(Site())], auth=BearerAuth(refresh=given)) as session:
        assert (await session.get(URL)).ok


async def test_a_plain_function_may_block_and_holds_no_event_loop_up(world: World) -> None:
    threads: list[int] = []

    def blocking(call: Call) -> str:
        threads.append(threading.get_ident())
        return "token-0"

    async with world.session(transports=[MockTransport(Site())], auth=BearerAuth(refresh=blocking)) as session:
        assert (await session.get(URL)).ok
    assert (threads == [threading.get_ident()]) is (world.name == "blocking")


@pytest.mark.parametrize("wrong", [17, "a b", ("a",), ("a", "b"), ("a", -1), ("a", 1, 2), ("a", float("nan"))])
async def test_what_it_gives_is_checked_and_not_shown(world: World, wrong: Any) -> None:
    mock = MockTransport(lambda request: Response(200))
    async with world.session(transports=[mock], auth=BearerAuth(refresh=lambda call: wrong)) as session:
        with pytest.raises(UsageError) as caught:
            await session.get(URL)
        assert repr(wrong) not in str(caught.value)
    assert not mock.calls


async def test_its_own_requests_through_the_session_go_without_the_token(world: World) -> None:
    """Not only those by `call.send`: they would wait for the token that they get."""
    site = Site()

    async def by_the_session(call: Call) -> str:
        response = await call.session.send(Request("POST", f"{call.origin}/token"))
        return str(response.json()["access_token"])

    async with world.session(transports=[MockTransport(site)], auth=BearerAuth(refresh=by_the_session)) as session:
        assert (await session.get(URL)).ok


async def test_a_token_is_got_anew_shortly_before_its_end(world: World) -> None:
    time, site = FakeTime(), Site(life=100)
    auth = BearerAuth(refresh=refresh, leeway=30)
    async with world.session(transports=[time, MockTransport(site)], auth=auth) as session:
        for moment, issued in ((0, 1), (69, 1), (71, 2), (140, 2), (142, 3)):
            time.clock.time = 1000 + moment
            assert (await session.get(URL)).ok
            assert site.issued == issued
    assert len(site.seen) == 5  # and none was refused


async def test_a_short_life_is_used_by_half(world: World) -> None:
    time, site = FakeTime(), Site(life=10)
    async with world.session(transports=[time, MockTransport(site)], auth=BearerAuth(refresh=refresh)) as session:
        for moment, issued in ((0, 1), (4, 1), (6, 2)):
            time.clock.time = 1000 + moment
            assert (await session.get(URL)).ok
            assert site.issued == issued


async def test_a_new_token_that_is_refused_is_not_got_again_for_the_same_request(world: World) -> None:
    site = Site()
    site.revoked = True
    async with world.session(transports=[MockTransport(site)], auth=BearerAuth(refresh=refresh)) as session:
        for issued in (1, 2, 3):
            assert (await session.get(URL)).status_code == 401
            assert site.issued == issued
    assert site.seen == ["Bearer token-1", "Bearer token-1", "Bearer token-2", "Bearer token-2", "Bearer token-3"]


async def test_other_statuses_are_returned(world: World) -> None:
    site = Site()
    mock = MockTransport(lambda request: site(request) if request.url.path == "/token" else Response(403))
    async with world.session(transports=[mock], auth=BearerAuth(refresh=refresh)) as session:
        assert (await session.get(URL)).status_code == 403
    assert site.issued == 1 and len(mock.calls) == 2


async def test_content_that_can_be_sent_once_is_not_sent_again_but_the_next_call_has_a_new_token(world: World) -> None:
    site = Site()
    async with world.session(transports=[MockTransport(site)], auth=BearerAuth("old", refresh=refresh)) as session:
        for status in (401, 200):
            response = await session.put(URL, content=(piece for piece in (b"a", b"b")))
            assert response.status_code == status
    assert (site.issued, len(site.seen)) == (1, 2)


# -- when it fails -------------------------------------------------------------------------------------------------


class Gate:
    """A refresh that stands until it is opened, and then does what it is told."""

    def __init__(self, world: World) -> None:
        self.runtime = world.runtime()
        self.calls: list[Call] = []
        self.outcomes: list[Any] = []
        self.opened: list[Any] = []

    async def __call__(self, call: Call) -> str:
        self.calls.append(call)
        waiter = self.runtime.waiter()
        self.opened.append(waiter)
        with call.waiting(waiter):
            is_woken = await waiter.wait(call.deadline.at)
        call.check()
        if not is_woken:
            raise call.deadline.error("head")
        outcome = self.outcomes[len(self.calls) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)


async def callers(world: World, session: Any, count: int, **given: Any) -> list[Any]:
    """So many calls, one after the other, each of which waits now."""
    begun = []
    for _ in range(count):
        begun.append(world.in_background(functools.partial(session.get, URL, **given)))
        await world.settle()
    return begun


class Broken(Exception):
    """An error of the program's own."""


@pytest.mark.parametrize("kind", [HTTPStatusError, plugwire.ReadTimeout, plugwire.ConnectError, Broken])
async def test_a_refresh_that_fails_fails_all_who_wait_once_and_the_next_call_asks_again(
    world: World, kind: type[Exception]
) -> None:
    gate, site = Gate(world), Site()
    gate.outcomes = [kind("no token today"), "token-0"]
    async with world.session(transports=[MockTransport(site)], auth=BearerAuth(refresh=gate)) as session:
        begun = await callers(world, session, 5)
        gate.opened[0].wake()
        errors = [(await one.outcome()).error for one in begun]
        assert [type(error) for error in errors] == [kind] * 5
        assert all("no token today" in str(error) for error in errors)
        if issubclass(kind, plugwire.Error):
            assert len({id(error) for error in errors}) == 5
        assert len(gate.calls) == 1 and not site.seen
        begun = await callers(world, session, 1)
        gate.opened[1].wake()
        assert (await begun[0].result()).ok


async def test_who_waits_takes_over_when_the_one_who_refreshes_is_cancelled(world: World) -> None:
    gate, site = Gate(world), Site()
    gate.outcomes = [None, "token-0"]
    async with world.session(transports=[MockTransport(site)], auth=BearerAuth(refresh=gate)) as session:
        begun = await callers(world, session, 3)
        if world.name == "blocking":
            gate.calls[0].cancel()
        else:
            begun[0].cancel()
        outcome = await begun[0].outcome()
        assert outcome.was_cancelled or isinstance(outcome.error, plugwire.Cancelled)
        await world.settle()
        assert len(gate.calls) == 2
        gate.opened[1].wake()
        assert [(await one.result()).ok for one in begun[1:]] == [True, True]


async def test_who_waits_takes_over_when_the_one_who_refreshes_is_out_of_its_own_time(world: World) -> None:
    for limit in (0.15, 1.5, 15):
        gate, site = Gate(world), Site()
        gate.outcomes = [None, "token-0"]
        async with world.session(transports=[MockTransport(site)], auth=BearerAuth(refresh=gate)) as session:
            first = await callers(world, session, 1, timeout=limit)
            others = await callers(world, session, 2) if gate.calls else []
            assert isinstance((await first[0].outcome()).error, TotalTimeout)
            if not others:  # its time was over before it came to refresh
                continue
            await world.settle()
            assert len(gate.calls) == 2
            gate.opened[1].wake()
            assert [(await one.result()).ok for one in others] == [True, True]
            return
    raise AssertionError("it never comes to refresh")


async def test_who_waits_has_a_deadline_and_can_be_cancelled(world: World) -> None:
    gate, site, seen = Gate(world), Site(), []
    gate.outcomes = ["token-0"]
    async with world.session(transports=[MockTransport(site)], auth=BearerAuth(refresh=gate)) as session:
        first = await callers(world, session, 1)
        for limit in (0.3, 3):  # within which it comes to wait
            with pytest.raises(TotalTimeout) as caught:
                await session.get(URL, timeout=limit)
            if "another call" in str(caught.value):
                break
        assert "another call" in str(caught.value)
        waiting = await callers(world, session, 1, observe=lambda event: seen.append(event.call))
        seen[0].cancel()
        assert isinstance((await waiting[0].outcome()).error, plugwire.Cancelled)
        gate.opened[0].wake()
        assert (await first[0].result()).ok
    assert len(gate.calls) == 1


async def test_a_call_that_vanishes_before_it_has_begun_to_refresh_does_not_block_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by an interrupt between two bytecodes: nothing but the loss of its `_Lead` tells of it."""

    async def interrupted(self: Any, lead: Any, make: Any) -> Any:
        raise KeyboardInterrupt

    site = Site()
    async with world.session(transports=[MockTransport(site)], auth=BearerAuth(refresh=refresh)) as session:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(SharedValue, "_lead", interrupted)
            await session.get(URL, timeout=60)
        assert (await session.get(URL, timeout=20)).ok


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_child_of_a_fork_waits_for_no_thread_of_its_parent() -> None:
    parent, asked, answered = os.getpid(), threading.Event(), threading.Event()

    def wait(call: Call) -> str:
        asked.set()
        if os.getpid() == parent:
            answered.wait(60)
        return "token-0"

    with plugwire.Session(transports=[MockTransport(Site())], auth=BearerAuth(refresh=wait)) as session:
        thread = threading.Thread(target=session.get, args=(URL,))
        thread.start()
        asked.wait(60)
        child = os.fork()
        if not child:
            signal.alarm(60)
            try:
                os._exit(0 if session.get(URL, timeout=10).ok else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        answered.set()
        thread.join()


async def test_closing_the_session_ends_all_of_it(world: World) -> None:
    gate = Gate(world)
    session = world.session(transports=[MockTransport(Site())], auth=BearerAuth(refresh=gate))
    begun = await callers(world, session, 3)
    await session.close()
    for one in begun:
        assert isinstance((await one.outcome()).error, plugwire.SessionClosed)


async def test_retries_ask_again_for_a_token_too(world: World) -> None:
    site = Site()
    failures = [plugwire.ConnectError("down"), None]

    async def at_first_not(call: Call) -> str | tuple[str, float]:
        failure = failures.pop(0)
        if failure is not None:
            raise failure
        return await refresh(call)

    async with world.session(
        transports=[MockTransport(site)], auth=BearerAuth(refresh=at_first_not), plugins=[Retries(random=lambda: 0.0)]
    ) as session:
        assert (await session.get(URL)).ok


async def test_it_stays_with_its_origin_on_a_redirect(world: World) -> None:
    site = Site()

    def answer(request: Request) -> Response:
        if request.url.host == "other.example":
            return Response(401)  # nothing is refreshed for it
        if request.url.path == "/elsewhere" and site(request).ok:
            return Response(302, headers={"Location": "http://other.example/"})
        return site(request)

    mock = MockTransport(answer)
    async with world.session(transports=[mock], auth=BearerAuth(refresh=refresh)) as session:
        assert (await session.get("http://h.example/elsewhere")).status_code == 401
    assert [(call.url.host, call.headers.get("authorization")) for call in mock.calls] == [
        ("h.example", None), ("h.example", "Bearer token-1"), ("other.example", None),
    ]  # fmt: skip
    assert site.issued == 1
