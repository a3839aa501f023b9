"""Runs in the guest: an initiator (libiscsi) that logs in and asks for the LUNs, which LIO answers by itself:
no command reaches a handler. Arguments: initiator, target, portal, and where needed user and secret.

Prints the LUNs, or `refused` and why.
"""

import ctypes
import sys
from typing import Final

NORMAL: Final = 2
MOST: Final = 64


class Luns(ctypes.Structure):
    """`struct scsi_reportluns_list` of libiscsi."""

    _fields_ = (("count", ctypes.c_uint32), ("luns", ctypes.c_uint16 * MOST))


def luns(initiator: str, target: str, portal: str, *chap: str) -> str:
    library = ctypes.CDLL("libiscsi.so.7")
    for name in ("iscsi_create_context", "iscsi_reportluns_sync", "scsi_datain_unmarshall"):
        getattr(library, name).restype = ctypes.c_void_p
    library.iscsi_get_error.restype = ctypes.c_char_p
    context = ctypes.c_void_p(library.iscsi_create_context(initiator.encode()))
    library.iscsi_set_targetname(context, target.encode())
    library.iscsi_set_session_type(context, NORMAL)
    library.iscsi_set_noautoreconnect(context, 1)
    library.iscsi_set_timeout(context, 10)
    if chap:
        library.iscsi_set_initiator_username_pwd(context, *(text.encode() for text in chap))
    if library.iscsi_connect_sync(context, portal.encode()) or library.iscsi_login_sync(context):
        return f"refused: {library.iscsi_get_error(context).decode()}"
    task = ctypes.c_void_p(library.iscsi_reportluns_sync(context, 0, 4096))
    answer = ctypes.cast(library.scsi_datain_unmarshall(task), ctypes.POINTER(Luns)).contents
    found = [answer.luns[number] for number in range(answer.count)]
    library.iscsi_logout_sync(context)
    return " ".join(map(str, found))


if __name__ == "__main__":
    print(luns(*sys.argv[1:]))
