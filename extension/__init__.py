"""The tab in A1111, Forge and their relatives: our GUI in a process of its own, shown through the host's address.

What runs inside the host (all but `serving` and `bringing`) needs only what every host has: Python 3.10, Starlette, httpx,
filelock, psutil.
"""
