"""The kernel's time stamps of what a socket receives."""

from __future__ import annotations

import socket
import time

from locum_lab import observer


def test_a_stamp_is_the_time_of_arrival_and_not_of_reading() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving:
        observer.ask_stamps(receiving)
        receiving.bind(("127.0.0.1", 0))
        # The kernel begins to stamp a moment after it was asked to.
        while True:
            before = time.time()
            receiving.sendto(b"x", receiving.getsockname())
            sent = time.time()
            time.sleep(0.05)
            read = time.time()
            _, ancillary, _, _ = receiving.recvmsg(100, 64)
            if observer.stamp(ancillary) <= sent:
                break
            assert read - before < 60
        assert before - 0.001 <= observer.stamp(ancillary)


def test_without_a_stamp_the_time_of_reading_counts() -> None:
    before = time.time()
    assert before <= observer.stamp([]) <= time.time()
