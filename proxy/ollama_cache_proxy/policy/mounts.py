"""Whether a path is on a file system of another machine, by `/proc/self/mountinfo` of Linux (proc_pid_mountinfo(5)).

Locks and fsync are not what they are on a disk there, and another machine may write to the same files.
"""

from __future__ import annotations

import re
from typing import Final

_REMOTE: Final = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "gpfs", "lustre"),
        *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "vboxsf"),
    }
)
"""Types of file systems, those of FUSE without `fuse.`."""
_REMOTE_BY_FUSE: Final = frozenset(
    {
        *("curlftpfs", "gcsfuse", "geesefs", "goofys", "gvfsd-fuse", "juicefs", "mount-s3", "rclone", "s3fs"),
        *("seaweedfs", "smbnetfs", "sshfs"),
    }
)
_FUSE: Final = "fuse."
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
_MOUNT_POINT: Final = 4
"""The place of the mount point among the fields of a line; the type is the first after a `-`."""


def remote_file_system(mountinfo: str, path: str) -> str | None:
    """Return the type of the file system that a path is on, if that is of another machine; None else.

    `path` is absolute and without links. Lines that cannot be read are left out.
    """
    longest, found = -1, ""
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields, described = before.split(" "), after.split(" ")
        if not dash or len(fields) <= _MOUNT_POINT:
            continue
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[_MOUNT_POINT]).rstrip("/")
        if (path == point or path.startswith(f"{point}/")) and len(point) >= longest:  # the last one covers the others
            longest, found = len(point), described[0]
    kind = found.removeprefix(_FUSE)
    remote = kind in _REMOTE or (found.startswith(_FUSE) and kind in _REMOTE_BY_FUSE)
    return kind if remote else None
