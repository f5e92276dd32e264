"""The HTTP API, and its Python client in `web.client`."""
