"""Frames of the observer: what is asked, and who is heard for which address."""

from __future__ import annotations

import ipaddress
import struct

from locum_lab import packets

MAC = "02:4c:00:00:01:01"
RAW = packets.mac_bytes(MAC)


def ethernet(kind: int, body: bytes) -> bytes:
    """A frame from MAC."""
    return b"\xff" * 6 + RAW + struct.pack("!H", kind) + body


def ipv6(source: str, next_header: int, payload: bytes) -> bytes:
    """An IPv6 packet."""
    header = struct.pack("!IHBB", 6 << 28, len(payload), next_header, 255)
    return header + ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address("ff02::1").packed + payload


def packed(address: str) -> bytes:
    """The address as bytes."""
    return ipaddress.ip_address(address).packed


def test_an_arp_request_speaks_for_its_sender_not_for_its_target() -> None:
    frame = packets.question("10.77.0.2", MAC, "10.77.0.250")
    assert len(frame) == 42
    assert packets.speaks_for(frame) == (RAW, packed("10.77.0.250"))
    assert frame[38:42] == packed("10.77.0.2")


def test_an_ip_packet_speaks_for_its_source() -> None:
    body = bytes([0x45]) + bytes(11) + packed("10.77.0.2") + packed("10.77.0.1")
    assert packets.speaks_for(ethernet(0x0800, body)) == (RAW, packed("10.77.0.2"))
    assert packets.speaks_for(ethernet(0x86DD, ipv6("fd77::2", 6, bytes(20)))) == (RAW, packed("fd77::2"))


def test_a_neighbour_advertisement_speaks_for_its_target() -> None:
    advertisement = struct.pack("!BBHI", 136, 0, 0, 0x60000000) + packed("fd77::2") + b"\x02\x01" + RAW
    assert packets.speaks_for(ethernet(0x86DD, ipv6("fe80::1", 58, advertisement))) == (RAW, packed("fd77::2"))


def test_duplicate_address_detection_does_not_speak_for_its_target() -> None:
    solicitation = struct.pack("!BBHI", 135, 0, 0, 0) + packed("fd77::2")
    assert packets.speaks_for(ethernet(0x86DD, ipv6("::", 58, solicitation))) == (RAW, packed("::"))


def test_other_and_short_frames_speak_for_nothing() -> None:
    assert packets.speaks_for(b"") is None
    assert packets.speaks_for(ethernet(0x88CC, bytes(60))) is None
    assert packets.speaks_for(ethernet(0x86DD, bytes(30))) is None


def test_a_neighbour_solicitation_is_well_formed() -> None:
    frame = packets.question("fd77::a:b:c", MAC, "10.77.0.250")
    assert frame[:6] == bytes.fromhex("3333ff0b000c")
    assert frame[12:14] == b"\x86\xdd"
    source, group, payload = frame[22:38], frame[38:54], frame[54:]
    assert source == packed("fe80::4c:ff:fe00:101")
    assert group == packed("ff02::1:ff0b:c")
    assert payload[0] == 135
    assert payload[8:24] == packed("fd77::a:b:c")
    # RFC 1071: the sum over everything, checksum included, is all ones.
    data = source + group + struct.pack("!II", len(payload), 58) + payload
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


def run_filter(program: bytes, frame: bytes) -> int:
    """Interpret the few instructions of classic BPF that are used."""
    at = accumulator = 0
    while True:
        code, true, false, k = struct.unpack_from("HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            accumulator = int.from_bytes(frame[k : k + 4])
        elif code == 0x28:
            accumulator = int.from_bytes(frame[k : k + 2])
        elif code == 0x15:
            at += true if accumulator == k else false
        else:
            assert code == 0x06
            return int(k)


def test_the_filter_passes_the_three_protocols_except_from_those_ignored() -> None:
    program = packets.filter_program(["02:4c:00:00:fe:01", "02:4c:00:00:ff:fe"])
    for kind, expected in ((0x0806, packets.SNAP_LENGTH), (0x0800, packets.SNAP_LENGTH), (0x86DD, 78), (0x88CC, 0)):
        assert run_filter(program, ethernet(kind, bytes(60))) == expected
    for ignored in ("02:4c:00:00:fe:01", "02:4c:00:00:ff:fe"):
        frame = b"\xff" * 6 + packets.mac_bytes(ignored) + b"\x08\x06" + bytes(60)
        assert run_filter(program, frame) == 0
    stranger = b"\xff" * 6 + bytes.fromhex("aabbccddeeff") + b"\x08\x06" + bytes(60)
    assert run_filter(program, stranger) == packets.SNAP_LENGTH
