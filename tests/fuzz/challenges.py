"""Challenges, and answers to those of Digest.

Nothing that a server may ask for makes the parser raise; what it reads, it reads again when it is written down; and
what is answered fits into a header field, whatever was echoed in it.

An input: lines of WWW-Authenticate as latin-1, parted by LF.
"""

from __future__ import annotations

from fuzz.examples import examples
from plugwire.headers import Headers
from plugwire_plugins.challenges import Challenge, parse_challenges, parse_parameters, quoted
from plugwire_plugins.digest_auth import DigestChallenge, Login

WORDS = (
    b"Digest ", b"Basic ", b"Negotiate ", b"realm=", b"nonce=", b"qop=", b'"auth"', b'"auth-int,auth"', b"algorithm=",
    b"MD5-sess", b"SHA-256", b"SHA-512-256", b"opaque=", b"stale=true", b"userhash=true", b"charset=UTF-8", b", ", b'"',
    b'\\"', b"\\\\", b"=", b"==", b"\n", b"\xe9", b"\t",
)  # fmt: skip

USER = 'J\u00e4s\u00f8n "\\'.encode()


def seeds() -> list[bytes]:
    found = [text.encode("latin-1") for text in examples("test_challenges", str)]
    found += [text.encode("latin-1", "replace") for text in examples("test_digest_auth", str)]
    found += [b'Digest realm="r", nonce="n", qop="auth", opaque="o", algorithm=SHA-256, userhash=true, charset=UTF-8']
    return [seed for seed in found if len(seed) < 1000]


def check(data: bytes) -> None:
    # What a field may hold: the wire has refused all else.
    lines = [bytes(octet for octet in line if octet == 9 or 32 <= octet != 127) for line in data.split(b"\n")]
    texts = [line.decode("latin-1") for line in lines]
    found = parse_challenges(texts)
    assert parse_challenges([_written(challenge) for challenge in found]) == found
    said = parse_parameters(texts)
    assert parse_parameters([_parameters(said)]) == said
    challenge = DigestChallenge.first_of(texts)
    if challenge is None:
        return
    login = Login(challenge, USER, b"password")
    for nonce in (challenge.nonce, "another"):
        login.go_on(nonce)
        field = Headers({"authorization": login.answer("GET", "/", b"").field})["authorization"]
        answer = parse_parameters([field.removeprefix("Digest ")])
        assert (answer["realm"], answer["nonce"], answer.get("opaque")) == (challenge.realm, nonce, challenge.opaque)


def _written(challenge: Challenge) -> str:
    rest = challenge.token if challenge.token is not None else _parameters(dict(challenge.parameters))
    return f"{challenge.scheme} {rest}".strip()


def _parameters(parameters: dict[str, str]) -> str:
    return ", ".join(f"{name}={quoted(value)}" for name, value in parameters.items())
