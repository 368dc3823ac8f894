"""Many files of one server, read over connections that stay open."""

from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

_SILENCE_S = 60.0
_MOST_REDIRECTS = 5
_ASK_AGAIN = frozenset({408, 425, 429})
"""HTTP answers that say to ask again later, though their numbers blame the request."""


class KeptConnections:
    """Reads whole files over HTTP; several threads may do so at once.

    Proxies are those of the environment. There is no limit to a slow transfer, but to a silent one.

    Args:
        url: Address of the server, or of anything on it.
        most: Connections that stay open.
    """

    def __init__(self, url: str, most: int) -> None:
        retries = urllib3.Retry(None, connect=0, read=0, status=0, other=0, redirect=_MOST_REDIRECTS)
        timeout = urllib3.Timeout(connect=_SILENCE_S, read=_SILENCE_S)
        parts = urlsplit(url)
        proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
        if proxy is None:
            self._pool = urllib3.PoolManager(maxsize=most, retries=retries, timeout=timeout)
            return
        user, password = (unquote(part or "") for part in (urlsplit(proxy).username, urlsplit(proxy).password))
        headers = urllib3.make_headers(proxy_basic_auth=f"{user}:{password}") if user else None
        self._pool = urllib3.ProxyManager(proxy, proxy_headers=headers, maxsize=most, retries=retries, timeout=timeout)

    def read(self, url: str) -> bytes:
        """A file.

        Raises:
            FileNotFoundError: If the server answers that it is not there, or not for us; there is no use in asking
                again.
            OSError: If the server answers with another error, does not answer, or the transfer ends too early.
        """
        try:
            answer = self._pool.request("GET", url)
        except urllib3.exceptions.HTTPError as error:
            reason = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else None
            raise OSError(str(reason or error)) from error
        if answer.status == 200:
            return answer.data
        if 400 <= answer.status < 500 and answer.status not in _ASK_AGAIN:
            raise FileNotFoundError(f"HTTP {answer.status}")
        raise OSError(f"HTTP {answer.status} {answer.reason}")
