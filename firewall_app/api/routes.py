"""Which handler a method and a path mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ..policy.model import DEFAULT_ACCOUNT, Entity
from ..service import describe
from ..service.access import Access, Caller
from ..service.core import Core, T, Written
from ..service.deed import Deed
from ..settings import Settings
from .errors import NoSuchPath, WrongMethod
from .schemas import Body
from .waits import Waits


@dataclass
class Call:
    """One request as handlers see it, and what they may add to its answer."""

    core: Core
    access: Access
    settings: Settings
    caller: Caller | None
    url: str  # as the client sees it, without the query
    query: dict[str, str]
    waits: Waits
    account: str = DEFAULT_ACCOUNT  # whose objects are meant; /v2 only
    body: Any = None  # an instance of the route's schema
    deed: Deed = field(default_factory=Deed)  # of a request that changes something
    patience: int | None = None  # seconds that the client will wait for switches
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    meanwhile: Callable[[], object] | None = None  # what the answer will need, to be made while switches work

    def settle(self, written: Written[T]) -> T:
        """The result of a write, once the switches concerned have answered or the client's patience is at its end.

        When too many wait already it is given at once, and `Preference-Applied` does not say that it waited.
        """
        applied = ["keep-established"] if self.deed.keeps else []
        if self.patience is not None:
            caller = self.caller
            with self.waits.place((caller.token or caller) if caller is not None else None) as waits:
                if waits:
                    if self.meanwhile is not None:
                        self.core.runtime.pause()
                        self.meanwhile()
                    self.core.wait(written, self.patience)
                    applied.append(f"wait={self.patience}")
            # An answer without a body has no other place to say how it went.
            outcome = self.core.progress.outcome(dict.fromkeys(written.hosts, written.revision))
            self.headers["X-Change-Status"] = outcome.value
        if applied:
            self.headers["Preference-Applied"] = ", ".join(applied)
        return written.value

    def tag(self, entity: Entity) -> None:
        """Says which state of an object the answer shows."""
        self.headers["ETag"] = describe.etag(entity)


Handler = Callable[..., object]  # (call, **path parameters) -> JSON, None for no body
Finder = Callable[..., Entity]  # (policy, call, **path parameters) -> the object at a path; raises NotFound


@dataclass(frozen=True)
class Route:
    """One line of the tables in v1.py and v2.py."""

    method: str
    path: str  # `/v2/firewalls/{firewall_id}`
    handler: Handler
    status: int
    body: type[Body] | None = None
    body_optional: bool = False  # an empty body means something of its own
    open: bool = False  # needs no token
    created: bool = False  # may answer 201 instead
    object: Finder | None = None  # what the path is about, for entity tags
    safe: bool = False  # changes nothing, though it is no GET: viewers may
    operators: bool = False  # for operators alone
    once: bool = False  # heeds Idempotency-Key
    settles: bool = True  # a write of it changes the policy, so that switches can be waited for

    @property
    def writes(self) -> bool:
        return self.method != "GET" and not self.safe

    @property
    def compatible(self) -> bool:
        return self.path.startswith("/v2/")


def about(found: Finder, *routes: Route) -> tuple[Route, ...]:
    """Routes whose paths lead to one object, or to a part of it."""
    return tuple(replace(route, object=found) for route in routes)


class Routes:
    """A table of routes.  Paths may end in a slash, and HEAD is GET: some clients rely on either."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.all = tuple(routes)
        self._paths: list[tuple[re.Pattern[str], dict[str, Route]]] = []
        for path in dict.fromkeys(route.path for route in self.all):
            pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))
            self._paths.append((pattern, {route.method: route for route in self.all if route.path == path}))

    def methods(self, path: str) -> list[str]:
        """What can be done at a path.  Raises NoSuchPath."""
        methods, _ = self._at(path)
        return [*methods, *(["HEAD"] if "GET" in methods else [])]

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route, and its path parameters.  Raises NoSuchPath, WrongMethod."""
        methods, parameters = self._at(path)
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            raise WrongMethod(method, self.methods(path))
        return route, parameters

    def _at(self, path: str) -> tuple[dict[str, Route], dict[str, str]]:
        wanted = path[:-1] if path.endswith("/") else path
        for pattern, methods in self._paths:
            found = pattern.fullmatch(wanted)
            if found is not None:
                return methods, found.groupdict()
        raise NoSuchPath(f"there is nothing at {path}")
