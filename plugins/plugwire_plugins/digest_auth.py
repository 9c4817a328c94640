"""Digest authentication (RFC 7616): not the password goes over the wire, but a hash of it with what the server asked.

How it works. The first request to an origin goes out without credentials; its 401 carries the server's challenge, and
the request is sent again with the answer. From then on a session keeps a `_Login` for the origin, and the next requests
bring their answers with them, each with the next count `nc` of the same nonce.

    401, we sent nothing or an answer to an old nonce    a new login, the request is sent again
    401 with stale=true                                  the same: the nonce is too old, the password is not wrong
    401 otherwise                                        wrong user or password: it is returned, the login forgotten
    anything else with nextnonce                         the next answers are made with that nonce

Rules that hold, and what breaks without them:

1. *At most two answers for one request*: a server that finds every nonce stale would turn a call into an endless chain.
2. *A count is given out once for a nonce*, whichever thread asks: a server takes the second for a replay.
3. *Of several challenges the first that we can answer is answered* (RFC 7616, 3.7), and only one of Digest: Basic would
   hand the password to whoever sits between, who only has to leave the other challenges out.
4. *One cnonce for a login*: with the algorithms that end in "-sess" the first one is part of the secret (3.4.2), and
   servers differ in which one they take for the later requests; so there is only one.
5. *What the server says in bytes is hashed and sent back as those bytes*: its fields are latin-1 text here, whatever
   charset was meant. Names and passwords of ours are UTF-8 in normalisation form C (4).

`domain` is not used: a login is for the whole origin, and no other (3.3 would let a server name others, to which the
core would not take us). The origin's state is of the request's URL, so the same text serves proxies, which challenge by
407: who speaks to the proxy translates that.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple
from unicodedata import normalize
from urllib.parse import quote

from plugwire import ProtocolError, UsageError
from plugwire_plugins.challenges import Challenge, parse_challenges, parse_parameters, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plugwire.protocols import AsyncResponse, Call, Next, Origin, Request, Runtime

ALGORITHMS: Final = {"md5": "md5", "sha-256": "sha256", "sha-512-256": "sha512_256", "sha-512": "sha512"}
"""What RFC 7616, 6.1 registers, and what OpenSSL calls it. A build of it may lack some. SHA-512 is not registered, but
spoken by other clients and some servers (httpbin among them)."""

SESSION: Final = "-sess"

MAX_ANSWERS: Final = 2
"""How many challenges are answered for one request: the first, and one that says that its nonce is stale already."""

MAX_ORIGINS: Final = 1000
"""Origins whose login a session remembers: a crawler sees many."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


# -- what is computed ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DigestChallenge:
    """A challenge that we can answer.

    Attributes:
        realm, nonce, opaque: as the server said them; opaque None if it did not.
        algorithm: as the server spelt it; None: MD5, and not said in the answer either (RFC 2069).
        qops: "auth", "auth-int", or both; empty: the server knows none (RFC 2069).
        is_stale: the nonce that we used is too old, and nothing else is wrong.
        has_userhash: the server wants the user's name hashed.
        is_utf8: the server says that it takes UTF-8.
    """

    realm: str
    nonce: str
    opaque: str | None = None
    algorithm: str | None = None
    qops: tuple[str, ...] = ("auth",)
    is_stale: bool = False
    has_userhash: bool = False
    is_utf8: bool = False

    @classmethod
    def read(cls, challenge: Challenge) -> DigestChallenge | None:
        """What a challenge says; None if it is of another scheme, not complete, or wants an algorithm or a qop that is
        not known here."""
        said = challenge.parameters
        if challenge.scheme != "digest" or "realm" not in said or "nonce" not in said:
            return None
        name = said.get("algorithm", "MD5").lower()
        if not can_hash(name.removesuffix(SESSION)):
            return None
        qops = tuple(qop for qop in re.split(r"[\s,]+", said.get("qop", "").lower()) if qop in ("auth", "auth-int"))
        if not qops and ("qop" in said or name.endswith(SESSION)):
            return None
        return cls(
            said["realm"],
            said["nonce"],
            said.get("opaque"),
            said.get("algorithm"),
            qops,
            said.get("stale", "").lower() == "true",
            said.get("userhash", "").lower() == "true",
            said.get("charset", "").lower() == "utf-8",
        )

    @classmethod
    def first_of(cls, lines: Iterable[str]) -> DigestChallenge | None:
        """The first that we can answer among those in lines of WWW-Authenticate."""
        found = (cls.read(challenge) for challenge in parse_challenges(lines))
        return next((challenge for challenge in found if challenge is not None), None)

    def hash(self, *parts: str | bytes) -> str:
        """H(parts, with ":" between them), in hexadecimal digits. What is text is the server's; see the fifth rule."""
        name = (self.algorithm or "MD5").lower().removesuffix(SESSION)
        data = b":".join(part.encode("latin-1") if isinstance(part, str) else part for part in parts)
        return hashlib.new(ALGORITHMS[name], data).hexdigest()

    def secret(self, user: bytes, password: bytes, cnonce: str) -> str:
        """H(A1) (RFC 7616, 3.4.2): what stands for the password."""
        secret = self.hash(user, self.realm, password)
        if (self.algorithm or "").lower().endswith(SESSION):
            secret = self.hash(secret, self.nonce, cnonce)
        return secret

    def choose_qop(self, content: bytes | None) -> str | None:
        """What protects a request: "auth" where the server takes it, as every client does; "auth-int", which hashes the
        content too, where it takes nothing else; None if it knows neither.

        Raises:
            UsageError: it wants the content hashed, and that does not lie in memory.
        """
        if "auth" in self.qops or not self.qops:
            return "auth" if self.qops else None
        if content is None:
            raise UsageError(
                "the server wants a hash of the content in the request's head (Digest, qop=auth-int), so the content "
                "must lie in memory: give it as bytes"
            )
        return "auth-int"

    def named(self, user: bytes) -> str:
        """The parameter that tells the user's name (RFC 7616, 3.4.4)."""
        if self.has_userhash:
            return f"username={quoted(self.hash(user, self.realm))}, userhash=true"
        if self.is_utf8 and not user.isascii():
            return f"username*=UTF-8''{quote(user, safe='')}"
        return f"username={quoted(user.decode('latin-1'))}"


def can_hash(algorithm: str) -> bool:
    """True for an algorithm of `ALGORITHMS` that this Python has: some builds of OpenSSL lack SHA-512/256, or MD5."""
    try:
        hashlib.new(ALGORITHMS[algorithm])
    except (KeyError, ValueError):
        return False
    return True


class Answer(NamedTuple):
    """An answer to a challenge. field: the value of Authorization. nonce: the server's, with which it was made. proof:
    what the server proves with, as "rspauth", that it knows the secret too (RFC 7616, 3.5); None if a head cannot tell
    that: with qop "auth-int" it depends on the content of the response, and RFC 2069 had none."""

    field: str
    nonce: str
    proof: str | None


class Login:
    """A challenge with the credentials that answer it, again and again. Threads share it.

    Args:
        challenge: what the server asked.
        user, password: in bytes.
        cnonce: the client's nonce; None: a random one.
    """

    def __init__(self, challenge: DigestChallenge, user: bytes, password: bytes, cnonce: str | None = None) -> None:
        self.challenge = challenge
        self._name = challenge.named(user)
        self._cnonce = cnonce if cnonce is not None else secrets.token_urlsafe(18)
        self._secret = challenge.secret(user, password, self._cnonce)
        self._step = threading.Lock()
        self._nonce = challenge.nonce
        self._count = 0

    def go_on(self, nonce: str) -> None:
        """The server has said which nonce comes next. The secret stays, with "-sess" too (RFC 7616, 3.4.2)."""
        with self._step:
            if nonce != self._nonce:
                self._nonce, self._count = nonce, 0

    def answer(self, method: str, uri: str, content: bytes | None) -> Answer:
        """The answer for a request (RFC 7616, 3.4).

        Args:
            method: as sent.
            uri: the request's target, as sent.
            content: the request's; None if it does not lie in memory.

        Raises:
            UsageError: see `choose_qop`.
        """
        challenge = self.challenge
        qop = challenge.choose_qop(content)
        with self._step:
            self._count += 1
            nonce, count = self._nonce, f"{self._count:08x}"
        own = [nonce, count, self._cnonce, qop] if qop is not None else [nonce]
        asked = [method, uri] if qop != "auth-int" else [method, uri, challenge.hash(content or b"")]
        parts = [
            self._name,
            f"realm={quoted(challenge.realm)}",
            f"nonce={quoted(nonce)}",
            f"uri={quoted(uri)}",
            f"response={quoted(challenge.hash(self._secret, *own, challenge.hash(*asked)))}",
        ]
        if challenge.algorithm is not None:
            parts.append(f"algorithm={challenge.algorithm}")
        if challenge.opaque is not None:
            parts.append(f"opaque={quoted(challenge.opaque)}")
        if qop is not None:
            parts += [f"qop={qop}", f"nc={count}", f"cnonce={quoted(self._cnonce)}"]
        proof = challenge.hash(self._secret, *own, challenge.hash("", uri)) if qop == "auth" else None
        return Answer("Digest " + ", ".join(parts), nonce, proof)


# -- what a session does with it -----------------------------------------------------------------------------------


class DigestAuth:
    """User and password, by hashes: `auth=DigestAuth("user", "password")`.

    MD5, SHA-256, SHA-512-256 and SHA-512, each also with "-sess"; qop "auth", and "auth-int" where the server takes
    nothing else and the content lies in memory; user names hashed or in UTF-8, if the server says so; also what RFC
    2069 knew, without a qop. A request whose body can be sent only once is not repeated: its 401 is returned, and the
    next request brings its answer with it. A request that has an Authorization field already keeps it.

    Where the server says by "rspauth" that it knows the password too, that must be true, with qop "auth"; a server that
    says nothing is believed as well, so this proves no server's identity: TLS does.

    The login is kept in the session, for each origin, and goes with this object: make one object and keep it, or each
    call begins with a 401.

    Args:
        user: any text without control characters.
        password: the same.

    Raises:
        UsageError: one of them cannot be sent this way. No message shows them. Of a call: the server wants a hash of
            content that does not lie in memory.
        ProtocolError: of a call: the server's "rspauth" is wrong.
    """

    def __init__(self, user: str, password: str) -> None:
        self._user = _as_bytes("user", user)
        self._password = _as_bytes("password", password)

    def __repr__(self) -> str:
        return "<DigestAuth ***>"

    async def around_send(self, request: Request, call_next: Next, call: Call) -> AsyncResponse:
        """Answer what the server asks, or has asked of an earlier request; see the module."""
        if "authorization" in request.headers:
            return await call_next(request)
        logins = call.session.state(self, _Logins)
        origin = request.url.origin
        uri = request.target or request.url.target
        login, is_new, answers = logins.get(origin), False, 0
        while True:
            answer = None
            if login is not None:
                answer = login.answer(request.method, uri, request.content)
                request.headers["Authorization"] = answer.field
            response = await call_next(request)
            if response.status_code != 401:
                if login is not None and answer is not None:
                    _learn(login, answer, request, response)
                return response
            challenge = DigestChallenge.first_of(response.headers.get_list("www-authenticate"))
            if challenge is None or (answer is not None and _is_refused(answer, challenge, is_new)):
                # What we know does not do, so it must not come along with the next request either.
                logins.drop(origin, login)
                return response
            login, is_new = Login(challenge, self._user, self._password), True
            logins.put(origin, login)
            if answers == MAX_ANSWERS or not request.body.is_replayable:
                return response
            answers += 1
            await response.close()


def _is_refused(answer: Answer, challenge: DigestChallenge, is_new: bool) -> bool:
    """True if the server has seen the answer and does not take it, for another reason than that its nonce is old. One
    that was made with a nonce of an earlier request gets the benefit of the doubt: servers that have forgotten their
    nonces, after a restart, do not all say stale=true (Apache does not)."""
    return answer.nonce == challenge.nonce or (is_new and not challenge.is_stale)


def _learn(login: Login, answer: Answer, request: Request, response: AsyncResponse) -> None:
    """What the server says with its good answer (RFC 7616, 3.5).

    Raises:
        ProtocolError: it claims to know the password, and does not.
    """
    lines = response.headers.get_list("authentication-info")
    if not lines:
        return
    said = parse_parameters(lines)
    proof = said.get("rspauth") if said.get("qop", "auth").lower() == "auth" else None
    # As bytes: text that is no ASCII proves nothing, but compare_digest would raise.
    if (
        proof is not None
        and answer.proof is not None
        and not hmac.compare_digest(proof.lower().encode("latin-1"), answer.proof.encode())
    ):
        response.abort()
        what = "the server's rspauth (Authentication-Info) is wrong: it does not know the password (RFC 7616, 3.5)"
        raise ProtocolError(what).at("head", request=request, sent=True, connection=response.connection)
    if said.get("nextnonce"):
        login.go_on(said["nextnonce"])


class _Logins:
    """The logins of one session, by origin. Threads share it."""

    def __init__(self, runtime: Runtime) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """At first, and in the child of a fork: it would give out the same counts of a nonce as its parent."""
        self._step = threading.Lock()
        self._logins: dict[Origin, Login] = {}

    def get(self, origin: Origin) -> Login | None:
        return self._logins.get(origin)

    def put(self, origin: Origin, login: Login) -> None:
        with self._step:
            self._logins.pop(origin, None)
            while len(self._logins) >= MAX_ORIGINS:
                del self._logins[next(iter(self._logins))]  # the one that was made first
            self._logins[origin] = login

    def drop(self, origin: Origin, login: Login | None) -> None:
        """Forget this one; one that another call has made meanwhile stays."""
        with self._step:
            if login is not None and self._logins.get(origin) is login:
                del self._logins[origin]


def _as_bytes(what: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise UsageError(f"the {what} of Digest authentication is a str, not {type(value).__name__}")
    if _CONTROL.search(value):
        raise UsageError(f"the {what} of Digest authentication has a control character")
    try:
        return normalize("NFC", value).encode()
    except UnicodeEncodeError:
        raise UsageError(f"the {what} of Digest authentication has a lone surrogate: no text") from None
