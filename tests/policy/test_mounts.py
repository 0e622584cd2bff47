"""Which file systems are of another machine, by lines of mountinfo as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollama_cache_proxy.policy.mounts import remote_file_system

MOUNTINFO = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
40 27 0:40 / /home rw,relatime shared:2 master:7 - nfs4 server:/home rw,vers=4.2
41 40 254:1 / /home/ada/disk rw,relatime - btrfs /dev/vdb rw
42 27 0:42 / /mnt/old rw - nfs server:/old rw
43 42 254:2 / /mnt/old rw - xfs /dev/vdc rw
44 27 0:44 / /mnt/over rw - xfs /dev/vdd rw
45 44 0:45 / /mnt/over rw - cifs //server/over rw
46 27 0:46 / /mnt/a\\040b rw - fuse.sshfs ada@server: rw
47 27 0:47 / /mnt/secret rw - fuse.gocryptfs /home/x rw
48 27 0:48 / /mnt/c rw - 9p C:\\134 rw
49 27 0:49 / /mnt/s3 rw - fuse.rclone bucket: rw
50 27 0:50 / /mnt/usb rw - fuseblk /dev/sdb1 rw
51 27 0:51 / /mnt/ceph rw - fuse.ceph ceph rw
nonsense
52 27 0:52
53 27 0:53 / /mnt/dash rw -
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", None),
        ("/var/cache/ollama-cache-proxy", None),
        ("/home", "nfs4"),
        ("/home/ada/.cache/ollama-cache-proxy", "nfs4"),
        ("/homes/ada", None),
        ("/home/ada/disk/kept", None),
        ("/home/ada/disks", "nfs4"),
        ("/mnt/old/kept", None),
        ("/mnt/over/kept", "cifs"),
        ("/mnt/a b/kept", "sshfs"),
        ("/mnt/secret/kept", None),
        ("/mnt/c/Users", "9p"),
        ("/mnt/s3/kept", "rclone"),
        ("/mnt/usb/kept", None),
        ("/mnt/ceph/kept", "ceph"),
        ("/mnt/dash/kept", None),
    ],
)
def test_what_a_path_is_on(path: str, kind: str | None) -> None:
    assert remote_file_system(MOUNTINFO, path) == kind


def test_no_lines_say_nothing() -> None:
    assert remote_file_system("", "/home") is None


def test_the_lines_of_this_machine_can_be_read() -> None:
    mountinfo = Path("/proc/self/mountinfo")
    if mountinfo.exists():  # Linux
        assert remote_file_system(mountinfo.read_text("utf-8", "surrogateescape"), "/proc/self") is None
