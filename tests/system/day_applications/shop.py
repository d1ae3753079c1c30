"""A shop in Django, in one file. Each page says which release made it, and logs a line."""

import logging
import threading

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from release import VERSION

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="a day", LOGGING_CONFIG=None)
log = logging.getLogger("shop")


def page(request: HttpRequest) -> HttpResponse:
    number = request.GET["n"]
    log.info("page %s;", number)
    return HttpResponse(f"{VERSION} {number} {request.body.decode()}", content_type="text/plain")


def hang(request: HttpRequest) -> HttpResponse:
    threading.Event().wait()
    return HttpResponse("never")


urlpatterns = [path("page", page), path("hang", hang)]
application = get_wsgi_application()
