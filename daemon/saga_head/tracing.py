"""Whether spans are made, and where they go. Off unless somebody named a collector; nothing is imported then.

The SDK's own variables hold (OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
OTEL_TRACES_SAMPLER, OTEL_BSP_*); the setting `head.otlp_endpoint` only takes the place of the endpoint.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from saga_core.book import Book
from saga_core.config import Config
from saga_core.errors import UserError
from saga_shell import log

if TYPE_CHECKING:
    from saga_head.spans import Spans

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
INSTALL: Final = "pip install 'saga-llm[otel]'"
CLOSE_S: Final = 2.0
"""For what is still in the queue when the head ends."""


def start(config: Config, book: Book, version: str) -> Spans | None:
    """What makes spans, or None where nobody wants them.

    Raises `UserError` where the setting wants them and the packages are not there. Where only the environment does,
    which is not meant for saga alone, that is a warning.
    """
    endpoint = config.head.otlp_endpoint
    if not endpoint and not _wanted(os.environ):
        return None
    try:
        spans = _spans(endpoint, config, book, version)
    except ImportError as error:
        if endpoint:
            raise UserError(
                f"head.otlp_endpoint is set, and {error.name} is not installed: {INSTALL}"
            ) from None
        log.warning("no-traces", reason=f"{error.name} is not installed", remedy=INSTALL)
        return None
    to = endpoint or next(os.environ[name] for name in ENDPOINTS if os.environ.get(name))
    log.info("traces", to=to.rpartition("@")[2])  # a URL may hold a password
    return spans


def close(spans: Spans) -> None:
    """Send what is left, for a while: a collector that does not answer keeps nobody."""
    closing = threading.Thread(target=spans.close, name="close-traces", daemon=True)
    closing.start()
    closing.join(CLOSE_S)


def _wanted(environment: Mapping[str, str]) -> bool:
    if not any(environment.get(name) for name in ENDPOINTS):
        return False
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    protocol = next((environment[name] for name in PROTOCOLS if environment.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        log.warning("no-traces", reason=f"the environment wants {protocol}", valid="http/protobuf")
        return False
    return True


def _spans(endpoint: str, config: Config, book: Book, version: str) -> Spans:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from saga_head.spans import Ids, Spans

    name = config.name or "saga"
    ours = Resource.create({"service.name": "saga", "service.version": version, "service.namespace": name})
    ids = Ids()
    provider = TracerProvider(
        resource=ours.merge(OTELResourceDetector().detect()), id_generator=ids, shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    # A collector that is away is said once by us, not with every batch and a stack of calls by the SDK.
    logging.getLogger("opentelemetry").addHandler(_Once())
    logging.getLogger("opentelemetry").propagate = False
    return Spans(provider, ids, book, cluster=name, version=version)


class _Once(logging.Handler):
    """What the SDK says, in our lines; the same no sooner than after a minute."""

    EVERY_S: Final = 60.0

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.created - self._said.get(record.name, 0.0) >= self.EVERY_S:
            self._said[record.name] = record.created
            log.warning("traces", said=message[:300])
