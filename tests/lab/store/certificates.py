"""A certificate authority for tests, made with the openssl program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


class Authority:
    """Signs certificates; everything lies in ``directory``."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self.certificate = directory / f"{name}.pem"
        self._key = directory / f"{name}.key"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "730"),
            *("-subj", f"/CN={name}", "-keyout", str(self._key), "-out", str(self.certificate)),
        )

    def issue(
        self, name: str, *, hosts: str = "IP:127.0.0.1,DNS:localhost", common_name: bool = True, days: int = 365
    ) -> tuple[Path, Path]:
        """A certificate for servers and clients named ``name`` (with or without a common name), and its key."""
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        request, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={hosts}\nextendedKeyUsage=serverAuth,clientAuth\n")
        _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/{'CN' if common_name else 'O'}={name}", "-keyout", str(key), "-out", str(request)),
        )
        _openssl(
            *("x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key)),
            *("-CAcreateserial", "-days", str(days), "-extfile", str(extensions), "-out", str(certificate)),
        )
        return certificate, key


def _openssl(*arguments: str) -> None:
    program = shutil.which("openssl")
    assert program is not None, "openssl is not installed (Debian: apt install openssl)"
    result = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
