"""A site in Starlette (ASGI). Each page says which release made it."""

from release import VERSION
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def page(request: Request) -> PlainTextResponse:
    body = (await request.body()).decode()
    return PlainTextResponse(f"{VERSION} {request.query_params['n']} {body}")


application = Starlette(routes=[Route("/page", page, methods=["GET", "POST"])])
