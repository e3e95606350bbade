"""What every answer and every question of the page must keep to, whoever asks."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self' https://huggingface.co",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Nothing is fetched from elsewhere, no other site reads what is here, and none shows it within its
own pages but the one that shows Spaces."""
_CHANGING = ("POST", "DELETE")


class Guard:
    """Refuses what another site's page makes a browser send, and says so of the page's answers."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if scope["method"] in _CHANGING and not _same_site(Headers(scope=scope)):
            refusal = PlainTextResponse("Another site's page asked for this.", 403)
            await refusal(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)


def _same_site(headers: Headers) -> bool:
    """Whether the browser's page is this server's; what is no browser says nothing of it."""
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")
