"""What the query service counts, in a Prometheus registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from schemas.tasks import TaskState, Technology


class QueryMetrics:
    """The service's metrics; one object per service, so that two may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "callstream_http_requests", "HTTP requests", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "callstream_http_request_seconds", "Time to answer an HTTP request", ["route"], registry=self.registry
        )
        self.ingested = Counter(
            "callstream_results_ingested", "Records of the results topic", ["outcome"], registry=self.registry
        )
        self.states = Counter(
            "callstream_task_states",
            "Transitions on the results topic, those that came again with the others",
            ["technology", "state"],
            registry=self.registry,
        )
        self.lag = Gauge("callstream_view_lag_records", "Records the view is behind", ["partition"], registry=self.registry)
        self.listeners = Gauge("callstream_http_listeners", "Open waits and event streams", registry=self.registry)
        self.tasks = Gauge("callstream_view_tasks", "Tasks in the view", registry=self.registry)
        self.started = Counter("callstream_tasks_started", "Tasks started over HTTP", ["technology"], registry=self.registry)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """What has no series before its first event is missed by whoever asks how much it grew."""
        for outcome in ("applied", "skipped"):
            self.ingested.labels(outcome)
        for technology in Technology:
            self.started.labels(technology.value)
            for state in TaskState:
                self.states.labels(technology.value, state.value)
