"""All routes of a server: those of the APIs, the page, and the OpenAPI document of them all."""

from collections.abc import Sequence

from embedrt.server import page
from embedrt.server.dialects import ENDPOINTS
from embedrt.server.endpoint import Endpoint
from embedrt.server.openapi import with_document


def routes(more: Sequence[Endpoint] = ()) -> tuple[Endpoint, ...]:
    """All routes.

    Args:
        more: Routes that depend on the server's configuration.
    """
    return with_document((*ENDPOINTS, *page.ENDPOINTS, *more), page.DIALECT)
