"""The HTTP client under the SDK: what comes from a server passes here before anything else sees it.

1. No redirect is followed: prompts and answers go to the address that the user wrote, and to no other.
2. An answer is read up to MOST_BYTES, counted after decompression; the rest is never taken in.
3. Key and password are hidden in body and headers: a server may echo what it was sent, in an error or in an answer.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from typing import Any

import openai

from rlaif.lm.server.credentials import Credentials
from rlaif.lm.server.replies import BrokenReply

MOST_BYTES = 8_000_000
"""Of one answer. The echo of 100,000 tokens with their log-probs takes as much; a usual answer some thousands."""
_OF_THE_WIRE = ("content-encoding", "content-length", "transfer-encoding")


class BorderClient(openai.DefaultAsyncHttpxClient):
    """The SDK's HTTP client with the rules above. BrokenReply where an answer is too long or cannot be unpacked."""

    def __init__(self, credentials: Credentials, timeout: float) -> None:
        # gzip alone: it is unpacked here, piece by piece
        super().__init__(timeout=timeout, auth=credentials.basic, headers={"Accept-Encoding": "gzip"})
        self._credentials = credentials

    async def send(self, request: Any, **options: Any) -> Any:
        response = await super().send(request, **(options | {"stream": True, "follow_redirects": False}))
        try:
            body = await _body(response.aiter_raw(), response.headers.get("content-encoding", "identity"))
        finally:
            await response.aclose()
        hide = self._credentials.hide
        headers = [
            (name, hide(value)) for name, value in response.headers.multi_items() if name.lower() not in _OF_THE_WIRE
        ]
        content = hide(body.decode(errors="surrogateescape")).encode(errors="surrogateescape")
        return type(response)(response.status_code, headers=headers, content=content, request=request)


async def _body(pieces: AsyncIterator[bytes], encoding: str) -> bytes:
    """The unpacked body."""
    encoding = encoding.strip().lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise BrokenReply(f"the server's answer is packed as {encoding[:40]!r}, which was not asked for")
    unpack = None if encoding == "identity" else zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    body, taken = bytearray(), 0
    async for piece in pieces:
        taken += len(piece)
        try:
            body += piece if unpack is None else unpack.decompress(piece, MOST_BYTES + 1 - len(body))
        except zlib.error:
            raise BrokenReply(f"the server's answer is not the {encoding} that it says it is") from None
        if max(taken, len(body)) > MOST_BYTES:
            raise BrokenReply(f"the server's answer is longer than {MOST_BYTES / 1e6:g} MB")
    if unpack is not None and taken and not unpack.eof:
        raise BrokenReply("the server's answer was cut on its way")
    return bytes(body)
