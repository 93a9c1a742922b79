"""The page with the HTTP routes: generated from the table of endpoints."""

from docs.hooks import http_routes
from embedrt.server.routes import routes


def test_every_route_and_every_field_of_a_request_is_on_the_page() -> None:
    page = http_routes()
    for endpoint in routes():
        for path in (endpoint.path, *endpoint.also):
            assert f"`{path.replace(':path}', '}')}`" in page
        for name in getattr(endpoint.body, "__struct_fields__", ()):
            assert f"| `{name}` | " in page
    assert "| `dimensions` | int | " in page
    assert "required | The query" in page
    assert "embedrt.server" not in page
