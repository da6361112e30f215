"""What is read of certificates, compared with what OpenSSL says."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.certificates import Certificate, NotACertificate, read_der, read_pem
from tests.lab.store.certificates import Authority


def told_by_openssl(path: Path) -> tuple[float, float]:
    """Python has no public way to read a client's certificate; this private one is what the test compares with."""
    told = ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined]
    return ssl.cert_time_to_seconds(told["notBefore"]), ssl.cert_time_to_seconds(told["notAfter"])


def test_dates_are_those_that_openssl_reads(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    # A year after 2049 is written in another form (RFC 5280 4.1.2.5).
    for name, days in (("near", 12), ("far", 36500)):
        path, _ = authority.issue(name, days=days)
        (found,) = read_pem(path.read_bytes())
        assert (found.since, found.until) == told_by_openssl(path)
    (own,) = read_pem(authority.certificate.read_bytes())
    assert (own.since, own.until) == told_by_openssl(authority.certificate)


def test_a_common_name_is_seen(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (named,) = read_pem(authority.issue("named")[0].read_bytes())
    (nameless,) = read_pem(authority.issue("nameless", common_name=False)[0].read_bytes())
    assert (named.common_name, nameless.common_name) == (True, False)


def test_a_bundle_has_all_its_certificates_whatever_stands_between(tmp_path: Path) -> None:
    one, two = Authority(tmp_path, "one").certificate.read_bytes(), Authority(tmp_path, "two").certificate.read_bytes()
    bundle = (
        "# Wörter\n".encode()
        + one
        + b"subject=CN = two\n"
        + two.replace(b"BEGIN CERT", b"BEGIN X509 CERT").replace(b"END CERT", b"END X509 CERT")
    )
    assert read_pem(bundle) == read_pem(one) + read_pem(two)
    assert read_pem(b"no certificate") == ()


def test_what_is_cut_off_is_not_a_certificate(tmp_path: Path) -> None:
    der = ssl.PEM_cert_to_DER_cert(Authority(tmp_path).certificate.read_text())
    assert isinstance(read_der(der), Certificate)
    for length in range(0, len(der) // 2, 7):
        with pytest.raises(NotACertificate):
            read_der(der[:length])


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    pem = b"-----BEGIN CERTIFICATE-----\n" + data + b"\n-----END CERTIFICATE-----"
    for read, what in ((read_der, data), (read_der, b"\x30\x20" + data), (read_pem, pem)):
        try:
            read(what)
        except NotACertificate:
            pass
