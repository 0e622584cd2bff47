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
54 27 0:54 / /home/bob rw ext4 /dev/vde rw
55 27 - nfs4 server:/x rw
56 27 0:56 / /mnt/late rw - nfs server:/late rw
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
        pytest.param("/home/bob", "nfs4", id="a line without a type says nothing"),
        pytest.param("/mnt/late", "nfs", id="a line behind one that cannot be read"),
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


REMOTE = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "davfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "smb3",
    "smbfs",
    "vboxsf",
]
BY_FUSE = [
    "curlftpfs",
    "gcsfuse",
    "geesefs",
    "goofys",
    "gvfsd-fuse",
    "juicefs",
    "mount-s3",
    "rclone",
    "s3fs",
    "seaweedfs",
    "smbnetfs",
    "sshfs",
]


def on(kind: str) -> str | None:
    return remote_file_system(f"1 0 0:1 / / rw - {kind} source rw\n", "/kept")


@pytest.mark.parametrize("kind", REMOTE)
def test_a_file_system_of_another_machine_is_one_by_fuse_too(kind: str) -> None:
    assert (on(kind), on(f"fuse.{kind}")) == (kind, kind)


@pytest.mark.parametrize("kind", BY_FUSE)
def test_some_are_by_fuse_alone(kind: str) -> None:
    assert (on(kind), on(f"fuse.{kind}")) == (None, kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "apfs", "fuseblk", "fuse.ext4"])
def test_a_file_system_of_this_machine_is_not(kind: str) -> None:
    assert on(kind) is None
