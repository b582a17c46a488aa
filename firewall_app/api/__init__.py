"""HTTP for people: two REST interfaces over one set of use cases.

    app.py      one request, start to end: request id, token, route, body, answer, error
    bodies.py   bytes of a body to JSON
    routes.py   which handler a method and a path mean
    limits.py   how often a token, and an address without one, may ask
    preconditions.py  If-Match, If-None-Match, Idempotency-Key
    cors.py     pages of other origins
    schemas.py  JSON of a body to values of policy/model.py, every fault with its path
    v1.py       handlers of the operator's interface, and of health
    external.py handlers of external peers
    explain.py  what becomes of one packet, and why
    admin.py    tokens and the audit log
    metrics.py  how the controller does, for Prometheus
    v2.py       handlers of the tenants' interface, compatible with DigitalOcean's
    render.py   values to JSON
    paging.py   collections in pages
    errors.py   which status each error becomes
    openapi.py  the document that describes all of it: operations.py in words, shapes.py and answers.py as schemas
    documentation.py  the page at /docs, which shows it
    server.py   the listener, with its limits; connection.py one connection, tls.py the certificate: these know eventlet

It calls service/ and knows neither the store nor OpenFlow.
"""
