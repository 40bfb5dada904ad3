"""The first process of a machine: lays out its root, then becomes its sshd.

Called by `machines.Machine` in new namespaces of mounts, processes, network, host name and IPC,
with one argument: the fields of `machines.Plan` as JSON. Uses the standard library alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Folders of the outer machine that no machine sees; each has its own, with this mode.
OWN = {"/tmp": "1777", "/var/tmp": "1777", "/run": "755", "/root": "755", "/home": "755"}
#: The numbers of the user that is made.
USER_ID = 20000
PIVOT_ROOT, MNT_DETACH = {"x86_64": 155, "aarch64": 41}, 2


def main() -> None:
    plan = json.loads(sys.argv[1])
    base = Path(plan["folder"])
    root = base / "root"
    mount("tmpfs", base, "tmpfs", "mode=755")
    for name in ("upper", "work", "root", "venv-upper", "venv-work"):
        (base / name).mkdir()
    overlay("/", base / "upper", base / "work", root)
    devices(root)
    for folder, mode in OWN.items():
        mount("tmpfs", inside(root, folder), "tmpfs", f"mode={mode}")
    bind(plan["python_home"], root, read_only=True)
    for outer, inner in plan["shared"].items():
        bind(outer, root, inner)
    settle(root, plan)
    make_user(root, plan)
    make_venv(base, root, plan)
    run("hostname", plan["name"])
    become_root(root)
    os.makedirs("/run/sshd")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/run/host_key")
    options = {
        "HostKey": "/run/host_key",
        "UsePAM": "no",
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
        "UseDNS": "no",
        "MaxStartups": "100:30:200",
        "MaxSessions": "100",
    }
    words = [word for pair in options.items() for word in ("-o", "=".join(pair))]
    # With /dev/null for a configuration: that of the outer machine must not matter.
    os.execv("/usr/sbin/sshd", ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *words])


def devices(root: Path) -> None:
    """Its own /proc, /sys and /dev."""
    mount("proc", root / "proc", "proc")
    mount("sysfs", root / "sys", "sysfs")
    dev = root / "dev"
    mount("tmpfs", dev, "tmpfs", "mode=755")
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        (dev / name).touch()
        run("mount", "--bind", f"/dev/{name}", str(dev / name))
    for name, target in (("fd", "/proc/self/fd"), ("ptmx", "pts/ptmx")):
        (dev / name).symlink_to(target)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        (dev / name).symlink_to(f"/proc/self/fd/{number}")
    (dev / "pts").mkdir()
    (dev / "shm").mkdir()
    mount("devpts", dev / "pts", "devpts", "newinstance,ptmxmode=0666,mode=620")
    mount("tmpfs", dev / "shm", "tmpfs", "mode=1777")


def settle(root: Path, plan: dict[str, Any]) -> None:
    """What an image's makers settle: names, variables of login shells, pip, the interpreter."""
    hosts = f"127.0.0.1 localhost\n{plan['addresses'][0]} {plan['name']}\n"
    write(root / "etc/hosts", hosts)
    write(root / "etc/resolv.conf", "")  # Nobody is asked for names.
    exports = "".join(f"export {name}='{value}'\n" for name, value in plan["env"].items())
    write(root / "etc/profile.d/rig.sh", exports)
    # What the setup asks of pip is there already; the network has no index. `false` turns the
    # isolation off: the option's name is negated already.
    write(root / "etc/pip.conf", "[global]\nno-index = true\nno-build-isolation = false\n")
    write(root / "usr/local/bin/python3", "")
    (root / "usr/local/bin/python3").unlink()
    (root / "usr/local/bin/python3").symlink_to(plan["python"])


def make_user(root: Path, plan: dict[str, Any]) -> None:
    """The user whom keys let in, with a home."""
    user, home = plan["user"], inside(root, plan["home"])
    number = 0 if user == "root" else USER_ID
    if number:
        for name, line in (
            ("passwd", f"{user}:x:{number}:{number}::{plan['home']}:/bin/bash"),
            ("group", f"{user}:x:{number}:"),
            ("shadow", f"{user}:*:19000:0:99999:7:::"),
        ):
            file = root / "etc" / name
            others = [
                old for old in file.read_text().splitlines() if not old.startswith(f"{user}:")
            ]
            file.write_text("\n".join([*others, line]) + "\n")
    (home / ".ssh").mkdir(mode=0o700, parents=True)
    write(home / ".ssh/authorized_keys", "".join(f"{key.strip()}\n" for key in plan["keys"]))
    if plan["private_key"]:
        write(home / ".ssh/id_ed25519", plan["private_key"])
        (home / ".ssh/id_ed25519").chmod(0o600)
    write(home / ".bashrc", "# of the image\n")
    write(home / ".profile", "if [ -f ~/.bashrc ]; then . ~/.bashrc; fi\n")
    # The interpreter may lie below the home of root.
    for path in (home, home / ".bashrc", home / ".profile", home / ".ssh", *home.glob(".ssh/*")):
        os.chown(path, number, number)


def make_venv(base: Path, root: Path, plan: dict[str, Any]) -> None:
    """~/venv: the environment of the outer machine, in which this one may write for itself."""
    outer, target = Path(plan["venv"]), inside(root, plan["home"]) / "venv"
    home = Path(plan["home"]) / "venv"
    target.mkdir()
    overlay(str(outer), base / "venv-upper", base / "venv-work", target)
    number = 0 if plan["user"] == "root" else USER_ID
    (site,) = target.glob("lib/python3*/site-packages")
    # As much as pip needs to put another vesselflow there.
    ours = [*site.glob("*vesselflow*"), *site.glob("__pycache__/*vesselflow*")]
    below = [path for folder in ours for path in folder.rglob("*")]
    for path in (target, target / "bin", site, site / "__pycache__", *ours, *below):
        os.chown(path, number, number)
    for script in (target / "bin").iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        content = script.read_bytes()
        found = re.match(rb"#!(\S+)/(python[0-9.]*)\n", content)
        if found and Path(found[1].decode()).resolve() == (outer / "bin").resolve():
            script.write_bytes(
                f"#!{home}/bin/{found[2].decode()}\n".encode() + content[found.end() :]
            )
        os.chown(script, number, number)


def overlay(lower: str, upper: Path, work: Path, target: Path) -> None:
    mount("overlay", target, "overlay", f"lowerdir={lower},upperdir={upper},workdir={work}")


def mount(what: str, where: Path, kind: str, options: str = "") -> None:
    where.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", kind, *(["-o", options] if options else []), what, str(where))


def bind(outer: str, root: Path, inner: str = "", *, read_only: bool = False) -> None:
    """Show a folder of the outer machine, at the same path unless another is named."""
    where = inside(root, inner or outer)
    where.mkdir(parents=True, exist_ok=True)
    run("mount", "--bind", outer, str(where))
    if read_only:
        run("mount", "-o", "remount,bind,ro", str(where))


def inside(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_symlink():
        file.unlink()  # /etc/resolv.conf often leads out of /etc.
    file.write_text(text)


def become_root(root: Path) -> None:
    """Make it the root of all, and let go of the old one."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.chdir(root)
    if libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."):
        raise OSError(ctypes.get_errno(), "pivot_root")
    if libc.umount2(b".", MNT_DETACH):
        raise OSError(ctypes.get_errno(), "umount2")
    os.chdir("/")


def run(*words: str) -> None:
    subprocess.run(words, check=True)


if __name__ == "__main__":
    main()
