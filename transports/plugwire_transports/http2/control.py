"""The connection's own conversation: preface, SETTINGS and their acknowledgement, PING. The h2 package holds it.

h2 is given whole frames of these two types and nothing else, so it knows of no streams. It validates the settings,
keeps both sides' values, acknowledges, and tells the HPACK coders of the table sizes; those are ours, put in the place
of its own on this one object. What it would keep without limit is kept from it: settings that nobody knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import PingAckReceived
from h2.exceptions import ProtocolError as H2ProtocolError
from h2.settings import SettingCodes, Settings

from plugwire_transports.http2.frames import (
    SETTING_SIZE,
    Code,
    ConnectionBroken,
    Kind,
    pack_header,
    read_setting,
)

if TYPE_CHECKING:
    from plugwire_transports.http2.hpack import Decoder, Encoder

_KNOWN: Final = frozenset(int(code) for code in SettingCodes)


class Control:
    """One connection's.

    Args:
        stream_window: what the peer may send on a stream before we have read any of it.
        max_head_bytes: what we announce as the largest list of header fields.

    Attributes:
        settings: the peer's, as far as they have come.
        is_acknowledged: the peer has acknowledged ours.
    """

    __slots__ = ("_connection", "_pings", "_pings_sent", "is_acknowledged", "settings")

    def __init__(self, encoder: Encoder, decoder: Decoder, stream_window: int, max_head_bytes: int) -> None:
        connection = self._connection = H2Connection(H2Configuration(client_side=True))
        connection.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: stream_window,
                SettingCodes.MAX_HEADER_LIST_SIZE: min(max_head_bytes, 2**32 - 1),
            },
        )
        coders = cast("Any", connection)  # its annotations name its own classes; it touches what ours have
        coders.encoder, coders.decoder = encoder, decoder
        connection.initiate_connection()
        self.settings: Settings = connection.remote_settings
        self.is_acknowledged: bool = False
        self._pings_sent = 0
        self._pings: list[bytes] = []

    def take(self) -> bytes:
        """What is to be written."""
        return self._connection.data_to_send()

    # -- SETTINGS ----------------------------------------------------------------------------------------------

    def apply(self, frame: bytes) -> None:
        """The peer's settings: one of the frames that `split` made. The acknowledgement is there to be taken.

        Raises:
            ConnectionBroken: a value that is not allowed (RFC 9113, 6.5.2).
        """
        self._feed(frame)

    def acknowledged(self, frame: bytes) -> None:
        """The peer acknowledges ours."""
        self._feed(frame)
        self.is_acknowledged = True

    # -- PING --------------------------------------------------------------------------------------------------

    @property
    def pings_unanswered(self) -> int:
        return len(self._pings)

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._pings_sent += 1
        data = self._pings_sent.to_bytes(8, "big")
        self._pings.append(data)
        self._connection.ping(data)

    def pinged(self, frame: bytes) -> bool:
        """PING: an answer is there to be taken, or it is one. Returns False for an answer that nobody had asked for."""
        for event in self._feed(frame):
            if isinstance(event, PingAckReceived):
                if event.ping_data not in self._pings:
                    return False
                del self._pings[: self._pings.index(event.ping_data) + 1]  # they are answered in order
        return True

    def _feed(self, frame: bytes) -> list[Any]:
        try:
            return list(self._connection.receive_data(frame))
        except H2ProtocolError as error:
            self._connection.clear_outbound_data_buffer()
            kind = Kind(frame[3]).name
            raise ConnectionBroken(Code(error.error_code), f"bad {kind}: {error} (RFC 9113, 6.5 and 6.7)") from None


def split(payload: bytes) -> list[bytes]:
    """The settings of one frame as one or more frames, in each of which no setting comes twice: h2 would see only the
    last of them, and values count in the order in which they come (RFC 9113, 6.5.3). Unknown ones are left out."""
    frames: list[bytes] = []
    seen: set[int] = set()
    settings: list[bytes] = []
    for place in range(0, len(payload), SETTING_SIZE):
        code: int = read_setting(payload, place)[0]
        if code not in _KNOWN:
            continue
        if code in seen:
            frames.append(_settings_frame(settings))
            seen.clear()
            settings = []
        seen.add(code)
        settings.append(payload[place : place + SETTING_SIZE])
    frames.append(_settings_frame(settings))
    return frames


def _settings_frame(settings: list[bytes]) -> bytes:
    payload = b"".join(settings)
    return pack_header(len(payload), Kind.SETTINGS, 0, 0) + payload
