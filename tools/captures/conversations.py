"""What the subjects do, with the programs that people use for it."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

from captures.services import (
    ECHO_PORT,
    IPERF_PORT,
    SIP_PORT,
    USRSCTP,
    Scene,
)
from captures.topology import (
    SERVERS,
    server_ipv4,
    server_ipv6,
    subject,
    subject_ipv4,
    subject_ipv6,
)

OPTIONS = Path(__file__).with_name("options.py")
IPV4 = 4
CALLING_AUDIO_PORT = 7000
SCTP_PORT = 5001

CALL = """<?xml version="1.0" encoding="UTF-8" ?>
<scenario name="call">
<send retrans="500"><![CDATA[
INVITE sip:[service]@sip.example.net SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
Max-Forwards: 70
From: <sip:CALLER@example.net>;tag=[call_number]
To: <sip:[service]@example.net>
Call-ID: [call_id]
CSeq: 1 INVITE
Contact: <sip:CALLER@[local_ip]:[local_port]>
Content-Type: application/sdp
Content-Length: [len]

v=0
o=CALLER 1 1 IN IP[local_ip_type] [local_ip]
s=-
c=IN IP[media_ip_type] [media_ip]
t=0 0
m=audio [auto_media_port] RTP/AVP 0
a=rtpmap:0 PCMU/8000
a=ptime:20

]]></send>
<recv response="100" optional="true"></recv>
<recv response="180" optional="true"></recv>
<recv response="200" rtd="true" rrs="true"></recv>
<send><![CDATA[
ACK sip:[service]@sip.example.net SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
Max-Forwards: 70
From: <sip:CALLER@example.net>;tag=[call_number]
[last_To:]
Call-ID: [call_id]
CSeq: 1 ACK
Content-Length: 0

]]></send>
<nop><action><exec rtp_stream="AUDIO,1,0"/></action></nop>
<pause milliseconds="DURATION"/>
<nop><action><exec rtp_stream="pause"/></action></nop>
<send retrans="500"><![CDATA[
BYE sip:[service]@sip.example.net SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
Max-Forwards: 70
From: <sip:CALLER@example.net>;tag=[call_number]
[last_To:]
Call-ID: [call_id]
CSeq: 2 BYE
Content-Length: 0

]]></send>
<recv response="200"></recv>
</scenario>
"""


def pick(number: int, service: str, version: int) -> tuple[str, str]:
    """The addresses of a subject and of a server in one address family."""
    if version == IPV4:
        return subject_ipv4(number), server_ipv4(service)
    return subject_ipv6(number), server_ipv6(service)


def ping(scene: Scene, number: int, version: int, *words: str, service: str = "http") -> None:
    """Echo requests from a subject; no answer is no failure, for some are meant to get none."""
    source, destination = pick(number, service, version)
    command = (
        "ping",
        f"-{version}",
        "-n",
        "-q",
        "-i",
        "0.05",
        "-W",
        "0.5",
        "-I",
        source,
        *words,
        destination,
    )
    scene.topology.execute(subject(number), *command, accept=(0, 1))


def look_up(scene: Scene, number: int, version: int, *questions: str) -> None:
    """Questions to the name server with dig."""
    source, server = pick(number, "dns", version)
    for question in questions:
        command = ("dig", f"@{server}", "-b", source, "+tries=1", "+time=3", *question.split())
        scene.topology.execute(subject(number), *command)


def browse(scene: Scene, number: int, version: int, *words: str, paths: tuple[str, ...]) -> None:
    """Requests to the web server with curl, several ones on one connection."""
    source, server = pick(number, "http", version)
    bracketed = server if version == IPV4 else f"[{server}]"
    outputs = [word for _ in paths for word in ("-o", "/dev/null")]
    command = (
        *("curl", "-q", "-s", "--noproxy", "*", "--interface", source, *outputs),
        *("--resolve", f"www.example.net:80:{bracketed}", *words),
        *(f"http://www.example.net{path}" for path in paths),
    )
    scene.topology.execute(subject(number), *command)


def copy_file(scene: Scene, number: int, version: int) -> None:
    """Fetches a file with sftp: key exchange, login, listing, transfer."""
    source, server = pick(number, "ssh", version)
    batch = scene.directory / f"sftp-{number}-{version}.batch"
    batch.write_text(
        f"lcd {scene.directory}\ncd {scene.directory}\nls www\n"
        f"get report.bin fetched-{number}-{version}.bin\n"
    )
    command = (
        *("sftp", "-q", "-F", "/dev/null", "-b", batch, "-i", scene.directory / "user_key"),
        *("-o", f"BindAddress={source}", "-o", "StrictHostKeyChecking=no"),
        # The key exchange that every dissector knows.
        *("-o", "KexAlgorithms=curve25519-sha256"),
        *(
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "IdentityAgent=none",
        ),
        f"root@[{server}]",
    )
    scene.topology.execute(subject(number), *command)


def tone(octets: int) -> bytes:
    """A 440 Hz tone, 8,000 samples a second, mu-law [ITU-T G.711]."""
    samples = bytearray()
    for index in range(octets):
        level = round(8_000 * math.sin(2 * math.pi * 440 * index / 8_000))
        magnitude = min(abs(level), 32_635) + 132
        exponent = magnitude.bit_length() - 8
        mantissa = (magnitude >> (exponent + 3)) & 0x0F
        sign = 0x80 if level < 0 else 0
        samples.append(~(sign | exponent << 4 | mantissa) & 0xFF)
    return bytes(samples)


def call(scene: Scene, number: int, version: int, duration_ms: int) -> None:
    """A telephone call with SIPp: invitation, audio in both directions, end."""
    source, server = pick(number, "sip", version)
    audio = scene.directory / f"tone-{number}-{version}.ul"
    # SIPp goes on playing for as long as the file lasts.
    audio.write_bytes(tone(duration_ms * 8))
    text = CALL.replace("AUDIO", str(audio)).replace("DURATION", str(duration_ms + 100))
    scenario = scene.directory / f"call-{number}-{version}.xml"
    scenario.write_text(text.replace("CALLER", subject(number)))
    bracketed = server if version == IPV4 else f"[{server}]"
    command = (
        *("sipp", "-sf", scenario, "-i", source, "-p", str(SIP_PORT), "-mi", source, "-m", "1"),
        *(
            "-mp",
            str(CALLING_AUDIO_PORT),
            "-s",
            "service",
            "-cid_str",
            f"%u-{number}-{version}-{duration_ms}@%s",
        ),
        *("-nostdin", "-nd", "-timeout", "30s", "-timeout_error", f"{bracketed}:{SIP_PORT}"),
    )
    scene.topology.execute(subject(number), *command)


def measure(scene: Scene, number: int, version: int, *words: str) -> None:
    """A short bulk transfer with iperf3."""
    source, server = pick(number, "echo", version)
    command = ("iperf3", "-c", server, "-B", source, "-p", str(IPERF_PORT), *words)
    scene.topology.execute(subject(number), *command)


def send_datagram(scene: Scene, number: int, version: int, text: str, port: int = ECHO_PORT) -> None:
    """One UDP datagram with netcat; to another port than the default one it is refused."""
    source, server = pick(number, "echo", version)
    message = scene.directory / f"datagram-{number}-{version}"
    message.write_text(text)
    words = f"nc -n -u -w 1 -q 0 -s {source} {server} {port} < {message}"
    scene.topology.execute(subject(number), "sh", "-c", words, accept=(0, 1))


def refused(scene: Scene, number: int, version: int) -> None:
    """A TCP connection to a port where nobody listens."""
    source, server = pick(number, "http", version)
    command = ("nc", "-n", "-z", "-w", "1", "-s", source, server, "81")
    scene.topology.execute(subject(number), *command, accept=(0, 1))


def trace(scene: Scene, number: int, version: int) -> None:
    """The way to a server, with UDP datagrams that run out of hops."""
    source, server = pick(number, "http", version)
    command = (
        "traceroute",
        f"-{version}",
        "-n",
        "-q",
        "2",
        "-N",
        "1",
        "-w",
        "1",
        "-s",
        source,
        server,
    )
    scene.topology.execute(subject(number), *command)


def send_options(scene: Scene, number: int, version: int) -> None:
    """Datagrams with IPv4 options or IPv6 extension headers."""
    source, server = pick(number, "echo", version)
    command = (sys.executable, OPTIONS, source, server, str(ECHO_PORT))
    scene.topology.execute(subject(number), *command)


def associate(scene: Scene, number: int, version: int) -> None:
    """An SCTP association with the user-space stack; the kernel need not have one."""
    source, server = pick(number, "echo", version)
    command = (USRSCTP / "tsctp", "-L", server, "-p", str(SCTP_PORT), "-l", "100")
    listener = scene.processes.start("tsctp", *scene.topology.inside(SERVERS, *command))
    time.sleep(0.5)
    try:
        words = (
            USRSCTP / "tsctp",
            "-L",
            source,
            "-p",
            str(SCTP_PORT),
            "-n",
            "12",
            "-l",
            "100",
            server,
        )
        scene.topology.execute(subject(number), *words, timeout_s=20.0)
    finally:
        scene.processes.stop(listener)
