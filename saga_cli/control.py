"""The control API, typed: one short HTTP exchange with the head per call, no state between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from saga_core.errors import ClusterError, RemoteProtocolError, UserError
from saga_core.explanation import Explanation
from saga_core.spending import UsageView
from saga_core.tenants import NewKey, TenantSettings
from saga_core.views import (
    Accepted,
    ClusterView,
    DrainRequest,
    EventPage,
    FinishRequest,
    NodeView,
    ShutdownRequest,
    SubmitRequest,
    WorkflowView,
)

if TYPE_CHECKING:
    from http.client import HTTPConnection

    from saga_cli.folder import ClusterFolder
    from saga_core.access import Access

T = TypeVar("T")

TIMEOUT_S: Final = 10.0
"""The head answers in milliseconds; a submission waits for its disk."""
DRAIN_S: Final = 600.0
"""For workflows to end before a cluster does."""
MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
"""A list of 100,000 workflows has about 60 MB."""


class HeadGone(ClusterError):  # noqa: N818 - a fact, and a case callers tell apart
    """Nothing listens at the address, or it does not answer."""


class _Problem(msgspec.Struct):
    message: str
    type: str = ""


class _Refusal(msgspec.Struct):
    error: _Problem


def _limits(
    weight: float | None, workflows: int | None, steps: int | None, priority: int | None
) -> dict[str, float]:
    wanted = {"weight": weight, "max_workflows": workflows, "steps_per_min": steps, "priority": priority}
    return {name: value for name, value in wanted.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Control:
    """The head of one cluster. Safe to share between threads."""

    url: str
    key: str
    folder: str
    """For error texts only."""
    timeout_s: float = TIMEOUT_S
    way: tuple[str, ...] = ()
    """A command that joins its input and output to the head, where TCP does not reach it."""

    @classmethod
    def of(cls, folder: ClusterFolder, timeout_s: float = TIMEOUT_S) -> Control:
        """The head of the cluster in `folder`. Raises ClusterError when none was started there."""
        access = folder.access()
        way = _way_to(access) if access.job else ()
        return cls(access.url, access.admin_key, str(folder.path), timeout_s, way)

    def cluster(self, workflows: int | None = None) -> ClusterView:
        """A snapshot with at most so many `workflows` (None: as many as the head likes, some 200)."""
        return self._ask("GET", "cluster" + _query(workflows=workflows), ClusterView)

    def events(
        self, *, after: int | None = None, workflow: int | None = None, wait_s: int | None = None
    ) -> EventPage:
        """Facts later than number `after`, or all that the head keeps; of one workflow or of all.

        With none there yet, waits up to `wait_s` for the first; keep it below `timeout_s`.
        """
        return self._ask("GET", "events" + _query(after=after, workflow=workflow, wait_s=wait_s), EventPage)

    def workflows(self) -> list[WorkflowView]:
        """Every workflow of the cluster's life, by id."""
        found = self._ask("GET", "workflows?all=1", list[WorkflowView])
        return sorted(found, key=lambda w: w.id)

    def workflow(self, id_: int) -> WorkflowView:
        """One workflow with its sessions."""
        return self._ask("GET", f"workflows/{id_}", WorkflowView)

    def explain_workflow(self, id_: int) -> Explanation:
        return self._ask("GET", f"workflows/{id_}/explanation", Explanation)

    def explain_step(self, id_: int) -> Explanation:
        return self._ask("GET", f"steps/{id_}/explanation", Explanation)

    def submit(self, request: SubmitRequest) -> Accepted:
        """Returns once the workflow is on the cluster's disk."""
        return self._ask("POST", "workflows", Accepted, request)

    def cancel(self, id_: int) -> WorkflowView:
        return self._ask("POST", f"workflows/{id_}/cancel", WorkflowView)

    def finish(self, id_: int, request: FinishRequest) -> WorkflowView:
        """End a workflow whose steps the caller itself ran."""
        return self._ask("POST", f"workflows/{id_}/finish", WorkflowView, request)

    def use_profile(self, profile: str) -> None:
        self._ask("PUT", "profile", Any, {"profile": profile})

    def shutdown(self, *, drain: bool = False, within_s: float = DRAIN_S) -> None:
        """Ask the cluster to end; it does so after this returned. drain: it lets workflows end, within that time."""
        self._ask("POST", "shutdown", Any, ShutdownRequest(drain=drain, within_s=within_s))

    def usage(self, since: float) -> UsageView:
        """What tenants and workflows have had since then, in seconds since the epoch."""
        return self._ask("GET", f"usage?since={since:.0f}", UsageView)

    def drain(self, node: str, request: DrainRequest) -> NodeView | None:
        """Empty a node; None: it was gone, and is forgotten."""
        return self._ask("POST", f"nodes/{node}/drain", NodeView | None, request)  # type: ignore[arg-type]

    def undrain(self, node: str) -> NodeView:
        """Let a node take sessions again."""
        return self._ask("POST", f"nodes/{node}/undrain", NodeView)

    def tenants(self) -> list[TenantSettings]:
        return self._ask("GET", "tenants", list[TenantSettings])

    def add_tenant(
        self,
        name: str,
        weight: float | None = None,
        workflows: int | None = None,
        steps: int | None = None,
        priority: int | None = None,
    ) -> NewKey:
        """Let a tenant in; its first key is in the answer, and nowhere else."""
        wanted = _limits(weight, workflows, steps, priority)
        return self._ask("POST", "tenants", NewKey, {"name": name} | wanted)

    def limit_tenant(
        self,
        name: str,
        weight: float | None = None,
        workflows: int | None = None,
        steps: int | None = None,
        priority: int | None = None,
    ) -> TenantSettings:
        """What it may do from now on; None leaves it as it is."""
        wanted = _limits(weight, workflows, steps, priority)
        return self._ask("PATCH", f"tenants/{name}", TenantSettings, wanted)

    def add_tenant_key(self, name: str) -> NewKey:
        return self._ask("POST", f"tenants/{name}/keys", NewKey)

    def revoke_tenant_key(self, name: str, key: str) -> TenantSettings:
        return self._ask("DELETE", f"tenants/{name}/keys/{key}", TenantSettings)

    def status_of(self, path: str) -> int:
        """HTTP status of a GET of `path`, with this key."""
        return self._exchange("GET", path, None)[0]

    def _ask(self, method: str, path: str, kind: type[T], body: object = None) -> T:
        status, data = self._exchange(method, f"/saga/v1/{path}", body)
        if status >= 400:
            raise self._refused(status, data)
        try:
            return msgspec.json.decode(data or b"null", type=kind)
        except msgspec.DecodeError as error:
            raise RemoteProtocolError(
                f"the head at {self.url} answered {method} {path} with something else ({error}); "
                "is it of another version than this command?"
            ) from None

    def _exchange(self, method: str, path: str, body: object) -> tuple[int, bytes]:
        import http.client  # brings ssl and email: a fifth of what `saga --help` may take

        connection = self._connection()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        headers |= {"Connection": "close"} if self.way else {}
        try:
            connection.request(method, path, None if body is None else msgspec.json.encode(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read(MAX_ANSWER_BYTES)
        except TimeoutError:
            raise self._silent(f"did not answer within {self.timeout_s:g} s") from None
        except ConnectionRefusedError:
            raise self._silent("is not there (connection refused)") from None
        except (OSError, http.client.HTTPException) as error:
            words = getattr(connection, "words", str)()
            raise self._silent(f"broke off ({words or str(error) or type(error).__name__})") from None
        finally:
            connection.close()

    def _connection(self) -> HTTPConnection:
        from http.client import HTTPConnection
        from urllib.parse import urlsplit

        address = urlsplit(self.url)
        if not self.way:
            return HTTPConnection(address.hostname or "", address.port, timeout=self.timeout_s)
        from saga_cli.slurm.reach import Piped

        return Piped(self.way, address.hostname or "", self.timeout_s)

    def _silent(self, what: str) -> HeadGone:
        return HeadGone(
            f"the head at {self.url} {what}; its log is {self.folder}/log/head.log. "
            "`saga up` as before (--local or --slurm) starts it again, `saga down` clears what is left"
        )

    def _refused(self, status: int, data: bytes) -> Exception:
        try:
            text = msgspec.json.decode(data, type=_Refusal).error.message
        except msgspec.DecodeError:
            text = f"HTTP status {status}"
        if status in {401, 403}:
            return ClusterError(
                f"the head at {self.url} refuses the key of {self.folder}/access.json ({text}); "
                "the file is of another cluster or out of date"
            )
        return UserError(text) if status < 500 else ClusterError(f"the head at {self.url}: {text}")


def _query(**said: int | None) -> str:
    words = "&".join(f"{name}={value}" for name, value in said.items() if value is not None)
    return f"?{words}" if words else ""


def _way_to(access: Access) -> tuple[str, ...]:
    from saga_cli.slurm.reach import way_to

    return way_to(access)
