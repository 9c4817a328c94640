"""Digest authentication (RFC 7616): the vectors of the RFCs, the choice among challenges, and the talk with a server
that computes by itself, in every world and over both versions."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any
from weakref import ref

import pytest

import plugwire
from plugwire import Headers, ProtocolError, Request, Response, UsageError
from plugwire.testing import MockTransport, Server
from plugwire.testing.peer import ScriptedPeer, expect_head, send
from plugwire_plugins import DigestAuth, digest_auth
from plugwire_plugins.challenges import parse_challenges, parse_parameters
from plugwire_plugins.digest_auth import DigestChallenge, Login, can_hash

if TYPE_CHECKING:
    from collections.abc import Callable

    from worlds import World

URL = "http://h.example/x"


def said(field: str) -> dict[str, str]:
    """The parameters of an Authorization field."""
    scheme, _, rest = field.partition(" ")
    assert scheme == "Digest"
    return parse_parameters([rest])


def login(line: str, user: str, password: str, cnonce: str | None = None) -> Login:
    challenge = DigestChallenge.first_of([line])
    assert challenge is not None, line
    return Login(challenge, user.encode(), password.encode(), cnonce)


# -- the vectors ---------------------------------------------------------------------------------------------------

RFC_7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_rfc_7616_section_3_9_1(algorithm: str, response: str) -> None:
    one = login(RFC_7616.format(algorithm), "Mufasa", "Circle of Life", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")
    answer = said(one.answer("GET", "/dir/index.html", b"").field)
    assert answer == {
        "username": "Mufasa",
        "realm": "http-auth@example.org",
        "uri": "/dir/index.html",
        "algorithm": algorithm,
        "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        "nc": "00000001",
        "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
        "qop": "auth",
        "response": response,
        "opaque": "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
    }


@pytest.mark.skipif(not can_hash("sha-512-256"), reason="this build of OpenSSL lacks SHA-512/256")
def test_rfc_7616_section_3_9_2() -> None:
    """With the values of erratum 4897: those of the text are of SHA-512, cut off."""
    one = login(
        'Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, '
        'nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", '
        "charset=UTF-8, userhash=true",
        "J\u00e4s\u00f8n Doe",
        "Secret, or not?",
        "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v",
    )
    answer = said(one.answer("GET", "/doe.json", b"").field)
    assert answer["username"] == "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"
    assert answer["userhash"] == "true"
    assert answer["response"] == "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"


def test_rfc_2617_section_3_5() -> None:
    one = login(
        'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
        'opaque="5ccc069c403ebaf9f0171e9517f40e41"',
        "Mufasa",
        "Circle Of Life",
        "0a4f113b",
    )
    answer = said(one.answer("GET", "/dir/index.html", b"").field)
    assert answer["response"] == "6629fae49393a05397450978507c4ef1"
    assert "algorithm" not in answer  # the server has not named one


def test_rfc_2069_without_qop() -> None:
    """As section 2.4 there, whose own value is wrong (erratum 749 has this one)."""
    one = login(
        'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
        'opaque="5ccc069c403ebaf9f0171e9517f40e41"',
        "Mufasa",
        "CircleOfLife",
    )
    answer = one.answer("GET", "/dir/index.html", b"")
    assert said(answer.field)["response"] == "1949323746fe6a43ef61f9606e7febea"
    assert not {"qop", "nc", "cnonce"} & set(said(answer.field)) and answer.proof is None


# -- what a challenge means ----------------------------------------------------------------------------------------


def first(*lines: str) -> DigestChallenge | None:
    return DigestChallenge.first_of(lines)


def test_the_first_challenge_that_can_be_answered_is_taken_and_never_basic() -> None:
    two = ['Basic realm="b"', 'Digest realm="r", nonce="1", algorithm=SHA-256, qop="auth", Digest realm="r", nonce="2"']
    assert first(*two) == DigestChallenge("r", "1", algorithm="SHA-256")
    unknown = 'Digest realm="r", nonce="1", algorithm=SHA-3, qop="auth"'
    assert first(unknown, 'Digest realm="r", nonce="2", qop="auth"') == DigestChallenge("r", "2")
    assert first(unknown, 'Basic realm="b"') is None
    assert first() is None


@pytest.mark.parametrize(
    "line",
    [
        'Digest realm="r"',
        'Digest nonce="n"',
        'Digest realm="r", nonce="n", qop="auth-conf"',
        'Digest realm="r", nonce="n", qop=""',
        'Digest realm="r", nonce="n", algorithm="MD5-sess"',
        'Digest realm="r", nonce="n", algorithm="token"',
        'Digest realm="r", nonce="n", qop="auth", algorithm="-sess"',
        "Digest abc=",
        'Basic realm="r", nonce="n"',
    ],
)
def test_what_cannot_be_answered(line: str) -> None:
    assert first(line) is None


def test_an_algorithm_that_this_python_lacks_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = hashlib.new

    def without(name: str, *given: Any) -> Any:
        if name == "sha512_256":
            raise ValueError(f"unsupported hash type {name}")
        return real(name, *given)

    monkeypatch.setattr(hashlib, "new", without)
    lines = [f'Digest realm="r", nonce="{name}", qop="auth", algorithm={name}' for name in ("SHA-512-256", "SHA-256")]
    assert first(*lines) == DigestChallenge("r", "SHA-256", algorithm="SHA-256")


def test_words_without_regard_to_case_and_everything_that_can_be_said() -> None:
    line = 'DIGEST Realm="r", NONCE=abc==, Stale=TRUE, charset=utf-8, userhash=True, qop=Auth-Int, algorithm=sha-256'
    assert first(line) == DigestChallenge("r", "abc==", None, "sha-256", ("auth-int",), True, True, True)


def test_qop_auth_where_it_is_offered_else_auth_int_if_the_content_lies_in_memory() -> None:
    both, whole = (DigestChallenge("r", "n", qops=qops) for qops in (("auth", "auth-int"), ("auth-int",)))
    assert both.choose_qop(b"x") == both.choose_qop(None) == "auth"
    assert whole.choose_qop(b"x") == whole.choose_qop(b"") == "auth-int"
    with pytest.raises(UsageError, match="auth-int"):
        whole.choose_qop(None)


def test_names_in_each_form() -> None:
    name = 'J\u00e4 "s\\n'
    data = name.encode()
    assert DigestChallenge("r", "n").named(b'a "b" \\c') == 'username="a \\"b\\" \\\\c"'
    assert DigestChallenge("r", "n").named(data) == f'username="{data.decode("latin-1")}"'.replace(
        ' "s\\n', ' \\"s\\\\n'
    )
    assert DigestChallenge("r", "n", is_utf8=True).named(data) == "username*=UTF-8''J%C3%A4%20%22s%5Cn"
    assert DigestChallenge("r", "n", is_utf8=True).named(b"plain") == 'username="plain"'
    hashed = DigestChallenge("r", "n", has_userhash=True, is_utf8=True).named(data)
    assert hashed == f'username="{hashlib.md5(data + b":r").hexdigest()}", userhash=true'


def test_what_the_server_says_is_hashed_and_sent_back_byte_for_byte() -> None:
    realm = 'caf\u00e9 "x" \\ '.encode()  # utf-8 on the wire, latin-1 in our Headers
    line = b'Digest realm="' + realm.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'", nonce="n"'
    headers = Headers([(b"www-authenticate", line)])
    challenge = DigestChallenge.first_of(headers.get_list("www-authenticate"))
    assert challenge is not None
    one = Login(challenge, b"u", b"p")
    request = Headers({"authorization": one.answer("GET", "/", b"").field})
    assert line.removeprefix(b"Digest ").partition(b", nonce")[0] in request.encoded()
    ha1 = hashlib.md5(b"u:" + realm + b":p").hexdigest()
    expected = hashlib.md5(f"{ha1}:n:{hashlib.md5(b'GET:/').hexdigest()}".encode()).hexdigest()
    assert said(request["authorization"])["response"] == expected


def test_counts_of_a_nonce_are_given_out_once_among_threads() -> None:
    one = login('Digest realm="r", nonce="n", qop="auth"', "u", "p")
    seen: list[str] = []

    def ask() -> None:
        for _ in range(200):
            seen.append(said(one.answer("GET", "/", b"").field)["nc"])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [f"{number:08x}" for number in range(1, 801)]


def test_the_next_nonce_begins_a_new_count_and_the_same_one_does_not() -> None:
    one = login('Digest realm="r", nonce="n", qop="auth", algorithm=MD5-sess', "u", "p")
    before = said(one.answer("GET", "/", b"").field)
    one.go_on("n")
    assert said(one.answer("GET", "/", b"").field)["nc"] == "00000002"
    one.go_on("m")
    after = said(one.answer("GET", "/", b"").field)
    assert (after["nonce"], after["nc"], after["cnonce"]) == ("m", "00000001", before["cnonce"])
    # The secret of "-sess" is that of the first nonce (RFC 7616, 3.4.2).
    inner = hashlib.md5(b"u:r:p").hexdigest()
    ha1 = hashlib.md5(f"{inner}:n:{before['cnonce']}".encode()).hexdigest()
    ha2 = hashlib.md5(b"GET:/").hexdigest()
    expected = hashlib.md5(f"{ha1}:m:00000001:{before['cnonce']}:auth:{ha2}".encode()).hexdigest()
    assert after["response"] == expected


@pytest.mark.parametrize("wrong", ["a\n", "a\x00", "\x7f", "\ud800", b"a", 1])
def test_what_cannot_be_sent_is_refused_and_not_shown(wrong: Any) -> None:
    for pair in ((wrong, "x"), ("x", wrong)):
        with pytest.raises(UsageError) as caught:
            DigestAuth(*pair)
        assert repr(wrong) not in str(caught.value)
    assert "somebody" not in repr(DigestAuth("somebody", "secret"))


# -- a server ------------------------------------------------------------------------------------------------------

HASHES: dict[str, Callable[[bytes], Any]] = {
    "MD5": hashlib.md5,
    "SHA-256": hashlib.sha256,
    "SHA-512": hashlib.sha512,
    "SHA-512-256": lambda data: hashlib.new("sha512_256", data),
}


class Site:
    """A handler that lets in who knows the password, and computes all of it by itself."""

    def __init__(
        self,
        *,
        algorithm: str = "MD5",
        qop: str = "auth",
        lives: int = 1_000_000,
        stale: str = ", stale=true",
        next_nonces: bool = False,
        more: str = "",
        rspauth: str | None = None,
        user: str = "Mufasa",
        password: str = "Circle of Life",
    ) -> None:
        self.algorithm, self.qop, self.lives, self.stale = algorithm, qop, lives, stale
        self.next_nonces, self.more, self.rspauth = next_nonces, more, rspauth
        self.user, self.password = user, password
        self.lock = threading.Lock()
        self.nonces: dict[str, set[int]] = {}
        self.seen: list[str] = []

    def hash(self, *parts: str | bytes) -> str:
        data = b":".join(part.encode() if isinstance(part, str) else part for part in parts)
        return str(HASHES[self.algorithm.removesuffix("-sess")](data).hexdigest())

    def nonce(self) -> str:
        nonce = f"nonce-{len(self.nonces)}"
        self.nonces[nonce] = set()
        return nonce

    def challenge(self, stale: str = "") -> Response:
        line = f'Digest realm="the site", nonce="{self.nonce()}", algorithm={self.algorithm}{stale}{self.more}'
        line += f', qop="{self.qop}"' if self.qop else ""
        return Response(401, headers=[("WWW-Authenticate", 'Basic realm="no"'), ("WWW-Authenticate", line)], text="no")

    def __call__(self, request: Request) -> Response:
        with self.lock:
            return self.answer(request)

    def answer(self, request: Request) -> Response:
        field = request.headers.get("authorization")
        self.seen.append(field or "")
        if field is None:
            return self.challenge()
        said = parse_parameters([field.removeprefix("Digest ")])
        if said["nonce"] not in self.nonces:
            return self.challenge(self.stale)
        used = self.nonces[said["nonce"]]
        if self.qop:
            count = int(said["nc"], 16)
            assert count not in used, "a count of this nonce came twice"
            used.add(count)
            if len(used) > self.lives:
                return self.challenge(self.stale)
        ha1 = self.hash(self.user, "the site", self.password)
        if self.algorithm.endswith("-sess"):
            ha1 = self.hash(ha1, said["nonce"], said["cnonce"])
        asked = [request.method, said["uri"]]
        if said.get("qop") == "auth-int":
            asked.append(self.hash(request.content or b""))
        own = [said["nonce"], said["nc"], said["cnonce"], said["qop"]] if self.qop else [said["nonce"]]
        is_right = said["response"] == self.hash(ha1, *own, self.hash(*asked)) and said["uri"] == request.url.target
        if not is_right:
            return self.challenge()
        headers = {}
        if self.qop:
            proof = self.rspauth or self.hash(ha1, *own, self.hash("", said["uri"]))
            headers["Authentication-Info"] = f'rspauth="{proof}", qop={said["qop"]}, nc={said["nc"]}'
            if self.next_nonces:
                headers["Authentication-Info"] += f', nextnonce="{self.nonce()}"'
        return Response(200, headers=headers, text="come in")


AUTH = ("Mufasa", "Circle of Life")
VERSIONS = ("http/1.1", "h2")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "algorithm", ["MD5", "MD5-sess", "SHA-256", "SHA-256-sess", "SHA-512-256", "SHA-512-256-sess", "SHA-512"]
)
async def test_the_first_request_is_asked_once_and_the_next_ones_bring_their_answer(
    world: World, algorithm: str, version: str
) -> None:
    if not can_hash(algorithm.removesuffix("-sess").lower()):
        pytest.skip("this build of OpenSSL lacks it")
    site = Site(algorithm=algorithm)
    with Server(site, http_versions=(version,)) as server:
        async with world.session(auth=DigestAuth(*AUTH), http_versions=(version,)) as session:
            for number in range(3):
                response = await session.get(f"{server.url}/a b?n={number}&q='\"")
                assert (response.status_code, response.text) == (200, "come in")
            response = await session.post(f"{server.url}/", content=b"data")
            assert response.ok
            assert response.connection.reused
    assert [bool(field) for field in site.seen] == [False, True, True, True, True]
    assert [said(field)["nc"] for field in site.seen[1:]] == [f"{number:08x}" for number in range(1, 5)]
    assert len({said(field)["cnonce"] for field in site.seen[1:]}) == 1


@pytest.mark.parametrize("version", VERSIONS)
async def test_auth_int_hashes_the_content(world: World, version: str) -> None:
    site = Site(qop="auth-int", algorithm="SHA-256")
    with Server(site, http_versions=(version,)) as server:
        async with world.session(auth=DigestAuth(*AUTH), http_versions=(version,)) as session:
            assert (await session.put(server.url, content=b"data")).ok
            assert (await session.get(server.url)).ok
            with pytest.raises(UsageError, match="auth-int"):
                await session.put(server.url, content=[b"pieces", b"of it"])
    assert [bool(field) for field in site.seen] == [False, True, True]


async def test_auth_int_for_content_that_does_not_lie_in_memory_is_an_error_and_leaves_nothing(world: World) -> None:
    with Server(Site(qop="auth-int")) as server:
        async with world.session(auth=DigestAuth(*AUTH)) as session:
            with pytest.raises(UsageError, match="in memory"):
                await session.put(server.url, content=[b"pieces", b"of it"])
            assert session.stats().open == session.stats().idle


async def test_without_qop_as_rfc_2069_had_it(world: World) -> None:
    site = Site(qop="")
    async with world.session(transports=[MockTransport(site)], auth=DigestAuth(*AUTH)) as session:
        assert (await session.get(URL)).ok and (await session.get(URL)).ok
    assert [bool(field) for field in site.seen] == [False, True, True]


async def test_a_name_and_a_password_that_are_not_ascii(world: World) -> None:
    pair = ("J\u00e4s\u00f8n", "na\u00efve")
    for more in (", charset=UTF-8", "", ", userhash=true"):
        site = Site(user=pair[0], password=pair[1], more=more)
        async with world.session(
            transports=[MockTransport(site)], auth=DigestAuth("Ja\u0308s\u00f8n", pair[1])
        ) as session:
            assert (await session.get(URL)).ok


async def test_a_stale_nonce_is_replaced_without_another_word(world: World) -> None:
    site = Site(lives=2)
    async with world.session(transports=[MockTransport(site)], auth=DigestAuth(*AUTH)) as session:
        for _ in range(5):
            assert (await session.get(URL)).ok
    assert [said(field)["nonce"] if field else "" for field in site.seen] == [
        "", "nonce-0", "nonce-0", "nonce-0", "nonce-1", "nonce-1", "nonce-1", "nonce-2",
    ]  # fmt: skip


@pytest.mark.parametrize("stale", [", stale=true", ""])
async def test_a_server_that_has_forgotten_its_nonces_is_answered_again(world: World, stale: str) -> None:
    site = Site(stale=stale)
    async with world.session(transports=[MockTransport(site)], auth=DigestAuth(*AUTH)) as session:
        assert (await session.get(URL)).ok
        site.nonces = {"nonce-that-is-not-repeated": set()}
        assert (await session.get(URL)).ok
    assert len(site.seen) == 4


async def test_a_server_that_finds_every_nonce_stale_is_answered_twice(world: World) -> None:
    site = Site(lives=0)
    async with world.session(transports=[MockTransport(site)], auth=DigestAuth(*AUTH)) as session:
        assert (await session.get(URL)).status_code == 401
        assert len(site.seen) == 3
        assert (await session.get(URL)).status_code == 401
        assert len(site.seen) == 6
    assert digest_auth.MAX_ANSWERS == 2


async def test_a_wrong_password_is_sent_once_and_not_with_the_next_request(world: World) -> None:
    site = Site()
    async with world.session(transports=[MockTransport(site)], auth=DigestAuth("Mufasa", "wrong")) as session:
        for _ in range(2):
            response = await session.get(URL)
            assert (response.status_code, response.text) == (401, "no")
    assert [bool(field) for field in site.seen] == [False, True, False, True]


async def test_a_password_that_is_good_no_more_is_not_sent_again_for_the_same_nonce(world: World) -> None:
    """The answer brought along was read and refused: another one like it would be, too."""
    line = 'Digest realm="r", nonce="always the same", qop="auth"'
    statuses = [401, 200, 401, 401, 200]
    mock = MockTransport(lambda request: Response(statuses[len(mock.calls) - 1], headers={"WWW-Authenticate": line}))
    async with world.session(transports=[mock], auth=DigestAuth(*AUTH)) as session:
        assert [(await session.get(URL)).status_code for _ in range(3)] == [200, 401, 200]
    assert ["authorization" in call.headers for call in mock.calls] == [False, True, True, False, True]


async def test_a_challenge_that_cannot_be_answered_is_returned(world: World) -> None:
    mock = MockTransport(lambda request: Response(401, headers={"WWW-Authenticate": 'Basic realm="x"'}))
    async with world.session(transports=[mock], auth=DigestAuth(*AUTH)) as session:
        assert (await session.get(URL)).status_code == 401
    assert len(mock.calls) == 1 and "authorization" not in mock.calls[0].headers


async def test_content_that_can_be_sent_once_is_not_sent_again_but_the_next_request_is_let_in(world: World) -> None:
    site = Site()
    async with world.session(transports=[MockTransport(site)], auth=DigestAuth(*AUTH)) as session:
        for status in (401, 200):
            response = await session.put(URL, content=(piece for piece in (b"a", b"b")))
            assert response.status_code == status
    assert len(site.seen) == 2


async def test_the_next_nonce_is_used(world: World) -> None:
    site = Site(next_nonces=True)
    async with world.session(transports=[MockTransport(site)], auth=DigestAuth(*AUTH)) as session:
        for _ in range(3):
            assert (await session.get(URL)).ok
    answers = [said(field) for field in site.seen[1:]]
    assert [(one["nonce"], one["nc"]) for one in answers] == [(f"nonce-{n}", "00000001") for n in range(3)]


@pytest.mark.parametrize("wrong", ["0" * 32, "", "\u00e9"])
async def test_a_server_that_only_claims_to_know_the_password_is_an_error(world: World, wrong: str) -> None:
    class Liar(Site):
        def answer(self, request: Request) -> Response:
            response = super().answer(request)
            if response.ok:
                response.headers["Authentication-Info"] = f'qop=auth, rspauth="{wrong}"'
            return response

    async with world.session(transports=[MockTransport(Liar())], auth=DigestAuth(*AUTH)) as session:
        with pytest.raises(ProtocolError, match="rspauth") as caught:
            await session.get(URL)
        assert caught.value.phase == "head" and caught.value.sent and session.stats().open == session.stats().idle


@pytest.mark.parametrize("line", ["", "nextnonce=", "rspauth", 'qop=auth-int, rspauth="0"', 'rspauth="x', "a=b, a=b"])
async def test_a_server_that_proves_nothing_is_believed(world: World, line: str) -> None:
    class Silent(Site):
        def answer(self, request: Request) -> Response:
            response = super().answer(request)
            if response.ok:
                response.headers["Authentication-Info"] = line
            return response

    async with world.session(transports=[MockTransport(Silent())], auth=DigestAuth(*AUTH)) as session:
        assert (await session.get(URL)).ok and (await session.get(URL)).ok


@pytest.mark.parametrize("version", VERSIONS)
async def test_many_callers_at_once(world: World, version: str) -> None:
    """The site fails on a count that comes twice."""
    site = Site(lives=7)
    with Server(site, http_versions=(version,)) as server:
        async with world.session(auth=DigestAuth(*AUTH), http_versions=(version,)) as session:

            async def ask() -> int:
                status: int = (await session.get(server.url)).status_code
                return status

            # Some may find their nonces used up by the others twice in a row, and get the 401.
            statuses = await world.gather(*[ask] * 30)
            assert statuses.count(200) >= 15 and set(statuses) <= {200, 401}


async def test_the_login_is_for_its_origin_only(world: World) -> None:
    sites = {"h.example": Site(), "other.example": Site()}
    mock = MockTransport(lambda request: sites[request.url.host](request))
    async with world.session(transports=[mock], auth=DigestAuth(*AUTH)) as session:
        for host in ("h.example", "other.example", "h.example"):
            assert (await session.get(f"http://{host}/")).ok
    assert [bool(field) for field in sites["h.example"].seen] == [False, True, True]
    assert [bool(field) for field in sites["other.example"].seen] == [False, True]


async def test_a_redirect_within_the_origin_is_answered_and_one_elsewhere_is_not(world: World) -> None:
    site, other = Site(), Site()

    def answer(request: Request) -> Response:
        if request.url.host == "other.example":
            return other(request)
        response = site(request)
        targets = {"/x": "/y", "/y": "http://other.example/"}
        if response.ok and request.url.path in targets:
            return Response(307, headers={"Location": targets[request.url.path]})
        return response

    async with world.session(transports=[MockTransport(answer)], auth=DigestAuth(*AUTH)) as session:
        assert (await session.put(URL, content=b"data")).status_code == 401
    assert [said(field)["uri"] if field else "" for field in site.seen] == ["", "/x", "/y"]
    assert other.seen == [""]


async def test_the_number_of_origins_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_auth, "MAX_ORIGINS", 2)
    site = Site()
    async with world.session(transports=[MockTransport(site)], auth=DigestAuth(*AUTH)) as session:
        for host in ("a", "b", "c", "a"):
            assert (await session.get(f"http://{host}/")).ok
    assert [bool(field) for field in site.seen] == [False, True] * 4


async def test_what_a_session_keeps_goes_with_the_auth_object(world: World) -> None:
    """A program that makes one for each call does not fill the memory."""
    site = Site()
    async with world.session(transports=[MockTransport(site)]) as session:
        for _ in range(2):
            auth = DigestAuth(*AUTH)
            gone = ref(auth)
            assert (await session.get(URL, auth=auth)).ok
            del auth
            gc.collect()
            assert gone() is None
    assert [bool(field) for field in site.seen] == [False, True, False, True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_child_of_a_fork_logs_in_by_itself() -> None:
    """Both would give out the same counts of one nonce, and servers take the second for a replay."""
    site = Site()
    with plugwire.Session(transports=[MockTransport(site)], auth=DigestAuth(*AUTH)) as session:
        session.get(URL)
        child = os.fork()
        if not child:
            signal.alarm(60)
            is_good = session.get(URL).ok and [bool(field) for field in site.seen] == [False, True, False, True]
            os._exit(0 if is_good else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert session.get(URL).ok
    assert [bool(field) for field in site.seen] == [False, True, True]


async def test_the_request_target_is_what_is_signed_where_it_is_not_the_urls(world: World) -> None:
    """As for CONNECT, whose target is host and port."""

    class Targeted:
        @plugwire.hookimpl(stage="prepare")
        async def around_send(self, request: Request, call_next: Any) -> Any:
            request.target = "h.example:443"
            return await call_next(request)

    class Blind(Site):
        def answer(self, request: Request) -> Response:
            request.url = plugwire.URL(URL)
            return super().answer(request)

    site = Blind()
    async with world.session(transports=[MockTransport(site)], plugins=[Targeted()], auth=DigestAuth(*AUTH)) as session:
        await session.get(URL)
    assert said(site.seen[1])["uri"] == "h.example:443"


async def test_a_request_that_has_the_field_keeps_it(world: World) -> None:
    site = MockTransport(lambda request: Response(401, headers={"WWW-Authenticate": 'Digest realm="r", nonce="n"'}))
    async with world.session(transports=[site], auth=DigestAuth(*AUTH)) as session:
        response = await session.get(URL, headers={"Authorization": "Bearer 1"})
    assert response.status_code == 401 and [call.headers["authorization"] for call in site.calls] == ["Bearer 1"]


async def test_the_challenges_content_is_read_so_that_the_connection_is_used_again(world: World) -> None:
    challenge = (
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n"
        b'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"\r\n\r\n'
    )
    with ScriptedPeer(
        [
            expect_head(),
            send(challenge),
            send(b"sorry"),
            expect_head(),
            send(b"HTTP/1.1 204 No Content\r\n\r\n"),
        ]
    ) as peer:
        async with world.session(auth=DigestAuth(*AUTH)) as session:
            assert (await session.get(peer.url)).status_code == 204
        assert peer.accepted == 1


def test_what_is_asked_of_us_is_not_asked_of_python_twice() -> None:
    """`hash` and `can_hash` agree on the names."""
    for name in digest_auth.ALGORITHMS:
        if can_hash(name):
            assert DigestChallenge("r", "n", algorithm=name.upper()).hash(b"x")
    assert not can_hash("md4") and not can_hash("")
    assert parse_challenges([]) == []
