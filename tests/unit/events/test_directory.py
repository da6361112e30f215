"""What is a script, in which order, and everything that can be wrong with a directory."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from locum.errors import ScriptDirectoryError, UsageError
from locum.events.directory import ScriptDirectory, unsafe
from locum.events.model import Kind
from tests.unit.bench import PYTHON, SHELL, Bench


def problems(bench: Bench) -> list[str]:
    with pytest.raises(ScriptDirectoryError) as caught:
        ScriptDirectory(bench.scripts).scan().check()
    return list(caught.value.problems)


def faults(bench: Bench) -> list[str]:
    with pytest.raises(ScriptDirectoryError) as caught:
        ScriptDirectory(bench.scripts).load()
    return list(caught.value.problems)


def ignored(bench: Bench) -> dict[str, str]:
    return {one.place: one.text for one in ScriptDirectory(bench.scripts).scan().problems if one.ignored}


def test_scripts_come_in_the_order_of_their_numbers(bench: Bench) -> None:
    for name in ("50.web", "05.first", "10.b.script", "99.last"):
        bench.shell(name, "exit 0\n")
    scripts = ScriptDirectory(bench.scripts).load()
    assert [script.name for script in scripts] == ["05.first", "10.b", "50.web", "99.last"]
    assert scripts[1].path == str(bench.scripts / "10.b.script")


def test_only_executable_scripts_are_enabled(bench: Bench) -> None:
    bench.shell("10.on", "exit 0\n")
    bench.script("20.off", SHELL, mode=0o644)
    assert [script.enabled for script in ScriptDirectory(bench.scripts).load()] == [True, False]


def test_backups_and_hidden_files_are_ignored(bench: Bench) -> None:
    bench.shell("10.on", "exit 0\n")
    bench.script("10.on~", "nonsense", mode=0o777)
    bench.script(".10.on.swp", "nonsense", mode=0o777)
    assert len(ScriptDirectory(bench.scripts).scan().check().scripts) == 1


def test_two_enabled_scripts_of_one_number_are_refused_by_both_names(bench: Bench) -> None:
    bench.shell("10.one", "exit 0\n")
    bench.shell("10.two.script", "exit 0\n")
    (problem,) = faults(bench)
    assert "10.one" in problem
    assert "10.two.script" in problem


def test_a_disabled_script_may_have_the_number_of_another(bench: Bench) -> None:
    bench.shell("10.one", "exit 0\n")
    bench.script("10.two", SHELL, mode=0o644)
    assert [script.name for script in ScriptDirectory(bench.scripts).load()] == ["10.one", "10.two"]
    assert ignored(bench)["10.one and 10.two"].startswith("have the same number 10.;")
    directory = ScriptDirectory(bench.scripts)
    with pytest.raises(
        ScriptDirectoryError, match=r"10\.two: 10\.one has the same number 10\.: disable that one first"
    ):
        directory.set_enabled(directory.find("10.two"), True)


LEFTOVERS = [
    "50.web.dpkg-dist",
    "50.web.dpkg-new",
    "50.web.dpkg-old",
    "50.web.dpkg-tmp",
    "50.web.ucf-dist",
    "50.web.ucf-new",
    "50.web.ucf-old",
    "50.web.rpmnew",
    "50.web.rpmsave",
    "50.web.rpmorig",
    "50.web.pacnew",
    "50.web.pacsave",
    "50.web.pacsave.1",
    "50.web.apk-new",
    "50.web.bak",
    "50.web.BAK",
    "50.web.bak2",
    "50.web.orig",
    "50.web.rej",
    "50.web.swp",
    "50.web~",
    "50.web.~1~",
    "#50.web#",
    "50.web.cfsaved",
    "50.web,v",
    "50.web.disabled",
    "50.web.save",
    "50.web.save.1",
    "50.web.tmp",
    "50.web.old",
    "50.web.script.rpmnew",
    "50.web.dpkg-old.script",
    "50.web.12345.2024-01-02@03:04:05~",
]


@pytest.mark.parametrize("mode", [0o644, 0o755, 0o777])
@pytest.mark.parametrize("name", LEFTOVERS)
def test_what_tools_leave_beside_a_script_never_runs_whatever_its_mode(bench: Bench, name: str, mode: int) -> None:
    bench.shell("50.web", "exit 0\n")
    bench.script(name, "#!/bin/sh\nexit 1\n", mode=mode)
    assert [script.name for script in ScriptDirectory(bench.scripts).scan().check().scripts] == ["50.web"]
    assert ignored(bench)[name].endswith("so it never runs")


@pytest.mark.parametrize("name", ["50.old", "50.new.script", "50.save", "50.web.local-site", "50.tmpwatch", "50.web2"])
def test_a_script_may_be_called_like_a_suffix_of_a_tool(bench: Bench, name: str) -> None:
    bench.shell(name, "exit 0\n")
    assert len(ScriptDirectory(bench.scripts).load()) == 1


def test_a_script_and_its_script_suffix_twin_are_two_of_one_number(bench: Bench) -> None:
    bench.shell("10.one", "exit 0\n")
    bench.shell("10.one.script", "exit 0\n")
    (problem,) = faults(bench)
    assert problem.startswith("10.one and 10.one.script:")


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_script_that_others_could_write_is_refused_by_name(bench: Bench, mode: int) -> None:
    bench.script("10.open", SHELL, mode=mode)
    bench.shell("20.good", "exit 0\n")
    (problem,) = faults(bench)
    assert problem.startswith("10.open: can be written by group or others")
    assert f"{mode:04o}" in problem
    assert "chmod go-w" in problem


def test_a_disabled_script_that_others_could_write_stops_nothing(bench: Bench) -> None:
    bench.script("10.open", SHELL, mode=0o666)
    assert len(ScriptDirectory(bench.scripts).load()) == 1
    (problem,) = problems(bench)
    assert problem.startswith("10.open: can be written by group or others")


@pytest.mark.parametrize(
    ("us", "owner", "safe"), [(0, 0, True), (0, 1000, False), (7, 0, True), (7, 7, True), (7, 8, False)]
)
def test_files_of_other_users_are_unsafe(monkeypatch: pytest.MonkeyPatch, us: int, owner: int, safe: bool) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: us)
    status = os.stat_result((0o100755, 1, 1, 1, owner, 0, 1, 0, 0, 0))
    texts = unsafe(status, "/etc/locum/events/50.web")
    assert (texts == []) == safe
    if not safe:
        (text,) = texts
        assert text.startswith(f"belongs to user {owner}, not to {'root' if us == 0 else 'you or root'}: chown ")


def test_a_directory_that_others_could_write_is_refused(bench: Bench) -> None:
    bench.shell("10.mine", "exit 0\n")
    bench.scripts.chmod(0o775)
    (problem,) = faults(bench)
    assert problem.startswith(f"{bench.scripts}: can be written by group or others")


def test_links_are_followed_as_far_as_they_are_safe(bench: Bench) -> None:
    store = bench.place / "store"
    store.mkdir(mode=0o755)
    target = store / "web"
    target.write_text(SHELL)
    target.chmod(0o755)
    (bench.scripts / "50.web").symlink_to(target)
    (script,) = ScriptDirectory(bench.scripts).load()
    assert script.enabled
    store.chmod(0o777)
    (problem,) = faults(bench)
    assert problem.startswith(f"50.web: is a link into {store}, which can be written by group or others")
    store.chmod(0o755)
    target.unlink()
    assert f"50.web: is a link to {target}, which does not exist" in problems(bench)


def test_what_is_not_a_file_stops_nothing_and_is_not_opened(bench: Bench) -> None:
    bench.shell("10.good", "exit 0\n")
    (bench.scripts / "20.directory").mkdir()
    os.mkfifo(bench.scripts / "30.fifo")
    (bench.scripts / "40.gone").symlink_to("/no/such/file")
    (bench.scripts / "50.loop").symlink_to("50.loop")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(bench.scripts / "60.socket"))
    assert len(ScriptDirectory(bench.scripts).load()) == 1
    assert [str(one).split(",")[0] for one in ScriptDirectory(bench.scripts).scan().problems] == [
        "20.directory: is a directory",
        "30.fifo: is a special file",
        "40.gone: is a link to /no/such/file",
        "50.loop: cannot be read: Too many levels of symbolic links",
        "60.socket: is a special file",
    ]


@pytest.mark.parametrize(
    "name",
    ["README", "1.web", "100.web", "50web", "50.", "web.50", "50.we b", "5o.web", "50.web\n", "notes.d"],
)
def test_a_stray_file_is_named_and_stops_nothing(bench: Bench, name: str) -> None:
    bench.shell("10.good", "exit 0\n")
    if name == "notes.d":
        (bench.scripts / name).mkdir()
    else:
        bench.script(name, "whatever", mode=0o644)
    assert len(ScriptDirectory(bench.scripts).scan().check().scripts) == 1
    assert ignored(bench)[name].startswith("is not named NN.name")
    if name != "notes.d":
        (bench.scripts / name).chmod(0o777)
        assert len(ScriptDirectory(bench.scripts).load()) == 1
        (problem,) = problems(bench)
        assert (
            problem
            == f"{name}: is not named NN.name or NN.name.script, so it never runs: rename it, or move it elsewhere"
        )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("echo no shebang\n", "starts with neither '#!' nor a program header"),
        ("#!\n", "names no interpreter"),
        ("#!/no/such/shell\nexit 0\n", "its interpreter /no/such/shell does not exist"),
        ("#!/etc\nexit 0\n", "its interpreter /etc does not exist or is not executable"),
        ("#!sh\nexit 0\n", "its interpreter sh is not an absolute path"),
        ("#!/usr/bin/env no-such-shell\nexit 0\n", "its interpreter no-such-shell is not found in /usr/local/sbin"),
        ("#!/bin/sh\r\nexit 0\r\n", "has Windows line ends"),
        ("#!/bin/sh\nif true; then\n", "sh cannot parse it: "),
        ("#!/bin/bash\ncase x in\n", "bash cannot parse it: "),
        ("#!/usr/bin/env bash\nf() {\n", "bash cannot parse it: "),
        (PYTHON + "def monitor(:\n", "Python syntax error in line 2"),
        (PYTHON + "def monitor():\n    x = '\0'\n", "Python"),
    ],
)
def test_a_script_that_cannot_run_is_a_fault_when_enabled(bench: Bench, text: str, problem: str) -> None:
    bench.script("10.bad", text)
    (found,) = faults(bench)
    assert found.startswith("10.bad: ")
    assert problem in found
    (bench.scripts / "10.bad").chmod(0o644)
    assert len(ScriptDirectory(bench.scripts).load()) == 1
    assert problem in problems(bench)[0]


def test_parsing_a_script_runs_nothing_of_it(bench: Bench) -> None:
    bench.shell("10.a", f"touch {bench.place}/ran\n$(touch {bench.place}/ran)\nexit 0\n")
    assert ScriptDirectory(bench.scripts).load()
    assert not bench.file("ran").exists()


def test_no_shell_is_given_what_others_could_have_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.script("10.open", SHELL, mode=0o777)

    def refuse(*_: object, **__: object) -> object:
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.run", refuse)
    assert len(faults(bench)) == 1


def test_every_problem_is_named_at_once(bench: Bench) -> None:
    bench.shell("10.one", "exit 0\n")
    bench.shell("10.two", "exit 0\n")
    bench.script("20.open", SHELL, mode=0o777)
    bench.script("30.bad", PYTHON + "def (\n")
    (bench.scripts / "40.gone").symlink_to("/no/such/file")
    bench.script("README", "text", mode=0o755)
    bench.scripts.chmod(0o777)
    found = "\n".join(problems(bench))
    for text in (str(bench.scripts), "10.one and 10.two", "20.open", "30.bad", "40.gone", "README"):
        assert text in found


def test_a_missing_an_empty_and_an_unreadable_directory_are_each_one_clear_message(bench: Bench) -> None:
    (problem,) = faults(bench)
    assert problem == f"{bench.scripts}: holds no event script (NN.name)"
    bench.scripts.rmdir()
    (problem,) = faults(bench)
    assert problem == f"{bench.scripts}: there is no such script directory"
    bench.scripts.write_text("")
    (problem,) = faults(bench)
    assert problem == f"{bench.scripts}: is not a directory"


def test_an_unreadable_directory_is_one_clear_message(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    (problem,) = faults(bench)
    assert problem == f"{bench.scripts}: cannot be read: Permission denied"


def test_changes_are_seen_at_the_next_look(bench: Bench) -> None:
    directory = ScriptDirectory(bench.scripts)
    path = bench.python("10.web", "def monitor(): pass\n")
    assert directory.load()[0].events == ("monitor",)
    bench.python("10.web", "def startup(): pass\n")
    assert directory.load()[0].events == ("startup",)
    path.chmod(0o644)
    assert not directory.load()[0].enabled
    path.unlink()
    bench.shell("20.other", "exit 0\n")
    assert [script.name for script in directory.load()] == ["20.other"]


def test_unchanged_scripts_are_not_read_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = ScriptDirectory(bench.scripts)
    bench.python("10.web", "def monitor(): pass\n")
    directory.load()

    def refuse(*_: object, **__: object) -> object:
        raise AssertionError("a script was opened again")

    monkeypatch.setattr("builtins.open", refuse)
    assert directory.load()[0].events == ("monitor",)


def test_kinds(bench: Bench) -> None:
    bench.shell("10.text", "case $1 in monitor|takeip) ;; esac\n")
    bench.python("20.python", "def monitor(): pass\n")
    Path(bench.scripts / "30.program").write_bytes(Path("/bin/true").resolve().read_bytes())
    (bench.scripts / "30.program").chmod(0o755)
    bench.shell("40.other-text", 'exec /usr/lib/something "$@"\n')
    scripts = ScriptDirectory(bench.scripts).load()
    assert [script.kind for script in scripts] == [Kind.TEXT, Kind.PYTHON, Kind.BINARY, Kind.TEXT]
    assert scripts[0].events == ("monitor", "takeip")
    assert scripts[2].handles("recovered")
    assert scripts[3].handles("recovered"), "a script that names no event may handle any"


def test_finding_a_script_by_any_of_its_names(bench: Bench) -> None:
    bench.shell("50.web.script", "exit 0\n")
    bench.shell("60.nfs", "exit 0\n")
    bench.shell("70.nfs", "exit 0\n")
    directory = ScriptDirectory(bench.scripts)
    for name in ("50.web", "50.web.script", "web", str(bench.scripts / "50.web.script")):
        assert directory.find(name).name == "50.web"
    with pytest.raises(UsageError, match=r"could be any of 60\.nfs, 70\.nfs"):
        directory.find("nfs")
    with pytest.raises(UsageError, match=r"unknown script 'smb' in .*; there are 50\.web, 60\.nfs, 70\.nfs"):
        directory.find("smb")


def test_enabling_keeps_the_rest_of_the_mode(bench: Bench) -> None:
    path = bench.script("50.web", SHELL, mode=0o640)
    directory = ScriptDirectory(bench.scripts)
    assert directory.set_enabled(directory.find("web"), True)
    assert path.stat().st_mode & 0o777 == 0o750
    assert not directory.set_enabled(directory.find("web"), True)
    assert directory.set_enabled(directory.find("web"), False)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_script_that_would_be_at_fault_is_not_enabled(bench: Bench) -> None:
    path = bench.script("50.web", PYTHON + "def (\n", mode=0o644)
    bench.script("60.open", SHELL, mode=0o666)
    directory = ScriptDirectory(bench.scripts)
    for name in ("50.web", "60.open"):
        with pytest.raises(ScriptDirectoryError, match=name):
            directory.set_enabled(directory.find(name), True)
    assert not path.stat().st_mode & 0o111


def test_the_mode_of_a_shared_file_is_not_changed_through_a_link(bench: Bench) -> None:
    target = bench.script("../shared", SHELL, mode=0o644)
    (bench.scripts / "50.web").symlink_to(target)
    directory = ScriptDirectory(bench.scripts)
    with pytest.raises(UsageError, match=r"is a link to .*put a copy in its place"):
        directory.set_enabled(directory.find("web"), True)
