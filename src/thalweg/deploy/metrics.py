"""Numbers of a running site for Prometheus (extra "net"). A scrape reads the site's status: a round pays nothing for it."""

from collections.abc import Callable
from typing import Any

from thalweg._extras import require

LOOPBACK = "127.0.0.1"


def address(text: str) -> tuple[str, int]:
    """(host, port) of "9100", which is on this machine alone, or "0.0.0.0:9100".

    Raises:
        ValueError: another.
    """
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 <= int(port) < 65536:
        raise ValueError(f"--metrics: got {text!r}, expected a port, or host:port")
    return host.strip("[]") or LOOPBACK, int(port)


class Metrics:
    """Serves `status()` at http://host:port/metrics until it is closed; of port 0, `port` is the one that was free.

    Raises:
        ValueError: the port cannot be had.
        ImportError: the extra "net" is missing.
    """

    def __init__(self, where: tuple[str, int], status: Callable[[], dict[str, Any]]):
        prometheus = require("prometheus_client", "net")
        registry = prometheus.CollectorRegistry(auto_describe=False)
        registry.register(_Collector(status))
        try:
            self._server, self._thread = prometheus.start_http_server(where[1], where[0], registry)
        except OSError as error:
            raise ValueError(f"--metrics: got {where[0]}:{where[1]}, expected a free port: {error.strerror}") from None
        self.port = self._server.server_port

    def close(self) -> None:
        """Serve no longer."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Collector:
    def __init__(self, status: Callable[[], dict[str, Any]]):
        self._status = status

    def collect(self):
        """Families of metrics, as `prometheus_client` asks for them."""
        core = require("prometheus_client.core", "net")
        status = self._status()
        site = [status["site"]]

        def gauge(name: str, text: str, value: float):
            family = core.GaugeMetricFamily(f"thalweg_{name}", text, labels=["site"])
            family.add_metric(site, value)
            return family

        def counter(name: str, text: str, by: str, values: dict[str, float]):
            family = core.CounterMetricFamily(f"thalweg_{name}", text, labels=["site", by])
            for label, value in values.items():
                family.add_metric([*site, label], value)
            return family

        yield gauge("round", "The round that the site is in.", status["round"])
        yield gauge("rounds", "The rounds that the experiment has at most.", status["rounds"])
        yield gauge("lag_rounds", "Rounds behind the site that is farthest.", status["lag"])
        yield gauge("epoch", "The number of the epoch, -1 before the first.", status["epoch"])
        yield gauge("members", "Sites that take part in the epoch.", len(status["members"]))
        if status["loss"] is not None:
            yield gauge("loss", "The site's own loss at its own answer.", status["loss"])
        yield counter("sent_bytes", "Bytes handed over to the network, by what they are.", "kind", status["sent"])
        yield counter("received_bytes", "Bytes that came, by what they are.", "kind", status["received"])
        yield counter("rejected", "Letters that were thrown away.", "reason", status["rejected"])
        seconds = core.SummaryMetricFamily("thalweg_round_seconds", "How long rounds took.", labels=["site"])
        seconds.add_metric(site, count_value=status["timed"], sum_value=status["seconds"])
        yield seconds
