"""The shell functions, called by scripts that an engine runs, in every shell that is here."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess

import pytest

from locum.events.environment import FUNCTIONS
from locum.events.model import Event
from locum.events.runner.results import ScriptResult
from tests.unit.bench import Bench, alive, kill_service, until

#: dash is Debian's sh; the others are what an admin may have in its place.
SHELLS = [
    f"#!{path}{option}"
    for name, option in (("dash", ""), ("bash", " --posix"), ("busybox", " sh"), ("ksh", ""))
    if (path := shutil.which(name))
]


@pytest.fixture(params=SHELLS)
def shebang(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(bench: Bench, shebang: str, body: str, **settings: object) -> ScriptResult:
    bench.script("50.web", f'{shebang}\n. "$LOCUM_FUNCTIONS"\n{body}\n')
    (result,) = bench.run(Event.MONITOR, settings={"50.web": settings}).scripts
    return result


def expect(bench: Bench, shebang: str, body: str, output: str, status: int = 0, **settings: object) -> None:
    result = run(bench, shebang, body, **settings)
    assert (result.output, result.status) == (output, status)


def test_there_is_a_shell_to_test_with() -> None:
    assert SHELLS


@pytest.mark.parametrize("shell", [shebang.removeprefix("#!").split() for shebang in SHELLS])
def test_syntax(shell: list[str]) -> None:
    subprocess.run([*shell, "-n", FUNCTIONS], check=True)


def test_dying(bench: Bench, shebang: str) -> None:
    expect(bench, shebang, 'die "no disk" 7; echo never', "no disk\n", 7)


def test_settings(bench: Bench, shebang: str) -> None:
    body = "locum_setting port; locum_setting start-timeout 5; locum_setting missing; locum_setting missing 'a b'"
    expect(bench, shebang, body, "80\n9\n\na b\n", port=80, **{"start-timeout": 9})


def test_ctdb_scripts_begin_like_this(bench: Bench, shebang: str) -> None:
    body = (
        'loadconfig; load_script_options; service_name="nfs"; ctdb_setup_state_dir "service" "$service_name"\n'
        'touch "$script_state_dir/here"; ctdb_check_args "$@"; echo "$service_name $script_name"'
    )
    expect(bench, shebang, body, "nfs 50.web\n")
    assert (bench.state / "scripts" / "50.web" / "here").exists()


def test_arguments(bench: Bench, shebang: str) -> None:
    body = (
        "(ctdb_check_args takeip eth0 10.0.0.1 24) && (ctdb_check_args updateip a b c 24) && ctdb_check_args takeip x"
    )
    expect(bench, shebang, body, "takeip: needs interface, address and maskbits\n", 1)


def test_counting_failures(bench: Bench, shebang: str) -> None:
    body = (
        "failcount_check web 2 && echo fine; failcount_incr web; failcount_check web 2 && echo fine\n"
        "failcount_incr web; failcount_check web 2; failcount_reset web; failcount_check web 2 && echo fine"
    )
    expect(bench, shebang, body, "fine\nfine\nweb: failed 2 times in a row\nfine\n")


def test_waiting(bench: Bench, shebang: str) -> None:
    file = bench.file("later")
    body = f"(sleep 0.2; mkdir {file}) & wait_until 60 test -d {file} && locum_wait_for_directories 60 {file} /"
    body += " && echo here"
    expect(bench, shebang, body, "here\n")
    result = run(bench, shebang, "locum_wait_for 1 sh -c 'echo not yet; false'")
    assert (result.output, result.status) == ("not yet\nnot within 1 s: sh -c echo not yet; false\n", 1)
    assert result.seconds >= 1
    result = run(bench, shebang, 'locum_wait_for_commands 1 true "test -e /nonexistent"')
    assert result.output == "not within 1 s: sh -c test -e /nonexistent\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_ports(bench: Bench, shebang: str, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        expect(
            bench, shebang, f"ctdb_check_tcp_ports {port} {port} && locum_wait_for_ports 9 {port} && echo up", "up\n"
        )
    expect(bench, shebang, f"ctdb_check_tcp_ports {port}", f"web not listening on TCP port {port}\n", 1)


def test_unix_sockets(bench: Bench, shebang: str) -> None:
    path = str(bench.file("a socket"))
    body = f"ctdb_check_unix_socket '{path}'"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        expect(bench, shebang, body, f"web not listening on {path}\n", 1)
        server.listen()
        # The kernel's table separates fields by blanks: a name with one cannot be found in it.
    plain = str(bench.file("socket"))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(plain)
        server.listen()
        expect(bench, shebang, f"ctdb_check_unix_socket {plain} && echo up", "up\n")


def test_directories(bench: Bench, shebang: str) -> None:
    expect(bench, shebang, "printf '/\\n/%%U/x\\n/tmp\\n' | ctdb_check_directories && echo fine", "fine\n")
    expect(
        bench,
        shebang,
        "printf '/\\n/no such\\n' | ctdb_check_directories || exit; echo never",
        'web directory "/no such" not available\n',
        1,
    )


def test_commands(bench: Bench, shebang: str) -> None:
    expect(bench, shebang, "ctdb_check_command true; ctdb_check_command sh -c 'echo x; false'; echo never",
           "ERROR: sh -c echo x; false failed: x\n", 1)  # fmt: skip


def test_rpc(bench: Bench, shebang: str) -> None:
    result = run(bench, shebang, "ctdb_check_rpc nosuch 3")
    assert result.status == 1
    assert result.output.startswith("unknown RPC program 'nosuch'")
    result = run(bench, shebang, "locum_check_rpc")
    assert (result.output, result.status) == ("usage: PROGRAM VERSION [HOST [tcp|udp]]\n", 2)


def test_declared_ports(bench: Bench, shebang: str) -> None:
    listen = bench.runtime / "listen" / "50.web"
    assert run(bench, shebang, "locum_expect_listen 443 80; locum_expect_listen 80").status == 0
    assert listen.read_text() == "80\n443\n"
    before = listen.stat()
    assert run(bench, shebang, "locum_expect_listen 443").status == 0
    assert listen.stat() == before
    assert run(bench, shebang, "locum_expect_no_listen 80").status == 0
    assert listen.read_text() == "443\n"
    assert run(bench, shebang, "locum_expect_no_listen; locum_expect_no_listen").status == 0
    assert not listen.exists()
    assert [path.name for path in bench.runtime.iterdir() if path.name.startswith(".")] == []


def pid_of(bench: Bench, name: str = "50.web") -> int:
    path = bench.runtime / "services" / f"{name}.pid"
    return int(path.read_text().split()[0])


def test_a_detached_service(bench: Bench, shebang: str) -> None:
    start = "locum_start_service web sh -c 'env | grep LOCUM; echo out; sleep 1000 & exec sleep 1001'"
    assert run(bench, shebang, start).output == "", "and it does not hold the script's output"
    pid = pid_of(bench)
    try:
        assert os.getsid(pid) == pid
        assert run(bench, shebang, f"{start}; locum_service_running web && echo runs").output == "runs\n"
        assert pid_of(bench) == pid
        log = bench.state / "services" / "50.web.log"
        until(lambda: log.read_text() == "out\n")
        assert run(bench, shebang, "locum_stop_service web").status == 0
        assert not alive(pid)
        again = "locum_stop_service web && locum_kill_service web; locum_service_running web"
        assert run(bench, shebang, again).output == "", "a second stop asks nobody"
    finally:
        kill_service(pid)


def test_a_service_that_ignores_the_request_to_stop(bench: Bench, shebang: str) -> None:
    start = "locum_start_service x sh -c \"trap '' TERM; while :; do sleep 0.1; done\""
    assert run(bench, shebang, start).status == 0
    pid = pid_of(bench, "50.web-x")
    try:
        assert run(bench, shebang, "locum_stop_service x 1").status == 0
        assert not alive(pid)
    finally:
        kill_service(pid)


def test_workers_that_outlived_the_main_process(bench: Bench, shebang: str) -> None:
    workers = bench.file("workers")
    start = f"locum_start_service web sh -c 'sleep 1000 & echo $! >>{workers}; wait'"
    run(bench, shebang, start)
    os.kill(pid_of(bench), 9)
    until(lambda: not alive(pid_of(bench)))
    (worker,) = until(lambda: bench.lines("workers"))
    assert alive(int(worker))
    run(bench, shebang, start)
    second = pid_of(bench)
    try:
        assert not alive(int(worker))
        assert run(bench, shebang, "locum_kill_service web").status == 0
        assert not alive(second)
    finally:
        kill_service(second)


def test_a_service_that_ends_at_once(bench: Bench, shebang: str) -> None:
    result = run(bench, shebang, "locum_start_service web sh -c 'echo no such option; exit 2'")
    assert result.status == 1
    assert result.output.startswith("no such option\nweb ended at once\n")
    assert f"last words in {bench.state / 'services' / '50.web.log'}: no such option" in result.reason


def test_python_and_shell_share_a_service(bench: Bench, shebang: str) -> None:
    run(bench, shebang, "locum_start_service web sleep 1000")
    pid = pid_of(bench)
    try:
        bench.python(
            "50.web",
            "from locum.script import *\ndef monitor():\n    assert service_is_running()\n    stop_service()\n",
        )
        (result,) = bench.run(Event.MONITOR, settings={"50.web": {"command": "sleep 1000"}}).scripts
        assert result.output == ""
        assert not alive(pid)
    finally:
        kill_service(pid)


def test_systemd(bench: Bench, shebang: str) -> None:
    calls = bench.file("calls")
    body = f'systemctl () {{ echo "$*" >>{calls}; }}\n' + "\n".join(
        [
            "service nginx restart",
            "locum_start_service nginx",
            "locum_service_running nginx && echo active",
            "locum_stop_service nginx",
            "locum_kill_service nginx",
        ]
    )
    expect(bench, shebang, body, "active\n")
    assert bench.lines("calls") == [
        "restart nginx",
        "start nginx",
        "is-active --quiet nginx",
        "stop nginx",
        "kill --signal=SIGKILL nginx",
    ]


def test_background_work_does_not_hold_the_script(bench: Bench, shebang: str) -> None:
    assert run(bench, shebang, "background_with_logging sh -c 'echo done; sleep 0.3; echo twice'").output == ""
    log = bench.state / "services" / "50.web.log"
    until(lambda: log.read_text() == "done\ntwice\n")
