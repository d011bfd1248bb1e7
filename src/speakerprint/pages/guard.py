"""What stands between a page that this machine serves and everybody else: who may ask, how much, for how long."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import h11
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 64  # more are answered 503
HEADER_TIMEOUT_S = 10.0  # for a connection's first request to arrive
BODY_TIMEOUT_S = 60.0  # for a request's body to arrive
BODIES_AT_ONCE = 2  # in memory; others wait
POLICY = 1008  # why a websocket is closed, of RFC 6455
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that is not answered: the status, and why."""

    def __init__(self, status: int, detail: str):
        super().__init__(status, detail)
        self.status, self.detail = status, detail


class Guard:
    """Refuses requests of other sites, and bodies of more than ``max_bytes``: they are counted as they arrive.

    Every answer carries HEADERS. No more than BODIES_AT_ONCE requests with a body are read at a time.
    """

    def __init__(self, app: ASGIApp, max_bytes: int):
        self.app, self.max_bytes = app, max_bytes
        self.bodies = asyncio.Semaphore(BODIES_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            try:
                _refuse_other_sites(Headers(scope=scope))
            except Refused as refused:
                await send({"type": "websocket.close", "code": POLICY, "reason": refused.detail})  # before it opens: a 403
                return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        try:
            headers = Headers(scope=scope)
            if scope["method"] in ("GET", "HEAD"):
                await self.app(scope, receive, with_headers)
                return
            _refuse_other_sites(headers)
            self._refuse_length(headers, scope["method"])
            async with self.bodies:
                await self.app(scope, self._counted(receive), with_headers)
        except Refused as refused:
            if not started:
                await JSONResponse({"detail": refused.detail}, refused.status)(scope, receive, with_headers)

    def _refuse_length(self, headers: Headers, method: str) -> None:
        length = headers.get("content-length")
        if length is None and (method == "POST" or "transfer-encoding" in headers):  # browsers and curl send it
            raise Refused(411, "the request does not say how long it is; send it with a Content-Length")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise Refused(400, f"the Content-Length is {length!r}, expected a number of bytes")
        if int(length or 0) > self.max_bytes:
            raise self._too_large()

    def _too_large(self) -> Refused:
        return Refused(413, f"more than {self.max_bytes // 2**20} MB; send shorter or fewer recordings")

    def _counted(self, receive: Receive) -> Receive:
        deadline = asyncio.get_running_loop().time() + BODY_TIMEOUT_S
        read = 0
        whole = False

        async def count() -> Message:
            nonlocal read, whole
            if whole:  # what is left to come is the end of the connection, however late
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise Refused(408, f"the request took more than {BODY_TIMEOUT_S:g} s to arrive; send it again") from None
            read += len(message.get("body", b""))
            if read > self.max_bytes:
                raise self._too_large()
            whole = not message.get("more_body", False)
            return message

        return count


def _refuse_other_sites(headers: Headers) -> None:
    """A browser says in one of three headers which site sends a request; what says nothing is no browser."""
    host = headers.get("host", "")
    for name in ("origin", "referer"):
        value = headers.get(name)
        if value is not None and _place(value) != host:
            raise Refused(403, f"requests from {value} are refused; use the page served here")
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Refused(403, "requests from other sites are refused; use the page served here")


def _place(url: str) -> str | None:
    try:
        return urlsplit(url).netloc
    except ValueError:  # of brackets that hold no address
        return None


class Connection(H11Protocol):
    """A connection that is closed where its first request does not arrive in time."""

    upgraded = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(HEADER_TIMEOUT_S, self._close_if_silent)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self.upgraded = True
        super().handle_websocket_upgrade(event)

    def _close_if_silent(self) -> None:
        if self.cycle is None and not self.upgraded and not self.transport.is_closing():
            self.transport.close()
