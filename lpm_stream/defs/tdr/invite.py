"""The text of an initial INVITE, as the ingress element of an ESInet receives it."""

import numpy as np
import polars as pl

from lpm_stream.defs.tdr.chance import hex_digits

_SDP = """\
v=0
o=- {} 1 {}
s=-
c={}
t=0 0
m=audio {} RTP/AVP 0 8 101
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=rtpmap:101 telephone-event/8000
a=fmtp:101 0-15
a=sendrecv
""".replace("\n", "\r\n")
_HEADER = """\
INVITE {} SIP/2.0
Via: SIP/2.0/TLS {}:5061;branch=z9hG4bK{}
Max-Forwards: 68
From: <sip:{}@{};user=phone>;tag={}
To: <{}>
Call-ID: {}
CSeq: 1 INVITE
Contact: <sip:{}@198.51.100.{}:5061;transport=tls>
Route: <sip:{};lr>
P-Asserted-Identity: <sip:{}@{};user=phone>
{}Call-Info: <urn:emergency:uid:callid:{}:{}>;purpose=emergency-CallId
Call-Info: <{}>;purpose=emergency-IncidentId
Resource-Priority: esnet.1
Supported: geolocation
Content-Type: application/sdp
Content-Length: {}

""".replace("\n", "\r\n")
_GEOLOCATION = "Geolocation: <https://lis.{}/held/{}>\r\nGeolocation-Routing: yes\r\n"
_IPV6_SHARE = 0.1  # of the callers' media addresses


def invite_text(rng: np.random.Generator, calls: pl.DataFrame) -> pl.Series:
    """The INVITE of each call, agreeing with the call's other columns.

    Args:
        rng: the source of chance.
        calls: one row a call, in the contract's columns.

    Returns:
        Texts of about 1,100 bytes: header and SDP body, CRLF line ends, Content-Length set.
    """
    user = pl.col("call_id").str.extract(r"^([^@]+)@", 1)
    provider = pl.col("call_id").str.extract(r"@(.+)$", 1)
    located = pl.col("latitude").is_not_null()
    texts = calls.with_columns(_body(rng, calls.height)).select(
        pl.format(
            _HEADER + "{}",
            "service_urn",
            "ingress_element",
            hex_digits(rng, calls.height, 8),
            "caller_number",
            provider,
            hex_digits(rng, calls.height, 6),
            "service_urn",
            "call_id",
            "caller_number",
            pl.Series(rng.integers(1, 255, calls.height)),
            "psap_id",
            "caller_number",
            provider,
            pl.when(located).then(pl.format(_GEOLOCATION, provider, user)).otherwise(pl.lit("")),
            user,
            "esinet",
            "incident_id",
            pl.col("body").str.len_bytes(),
            "body",
        )
    )
    return texts.to_series()


def _body(rng: np.random.Generator, count: int) -> pl.Series:
    host = pl.Series("host", rng.integers(1, 255, count))
    is_ipv6 = pl.Series("is_ipv6", rng.random(count) < _IPV6_SHARE)
    address = (
        pl.when(is_ipv6)
        .then(pl.format("IN IP6 2001:db8::{}", host))
        .otherwise(pl.format("IN IP4 203.0.113.{}", host))
    )
    session = pl.Series(rng.integers(10**5, 10**6, count))
    port = pl.Series(rng.integers(10_000, 20_000, count) * 2)
    return pl.select(pl.format(_SDP, session, address, address, port).alias("body")).to_series()
