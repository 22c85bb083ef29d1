"""Root and worker: greeting, planning, loading, steps over the fabric."""

from dllama.node.cluster import STEP_TIMEOUT_S, Cluster, ClusterOptions, StepTimes
from dllama.node.cores import default_threads, use_processors
from dllama.node.greeting import Address
from dllama.node.info import NodeInfo
from dllama.node.machine import available_memory_bytes, machine_id, peak_rss_bytes
from dllama.node.memory import MemoryNeed, memory_need, session_shape
from dllama.node.rank import NodeSettings, default_cache_type
from dllama.node.timing import LITTLE_WAIT, WAITS_APART, NodeTimes, waited_for
from dllama.node.tracing import ClusterTrace, chrome_trace
from dllama.node.worker import Worker, refuse_job, serve_job

__all__ = [
    "LITTLE_WAIT",
    "STEP_TIMEOUT_S",
    "WAITS_APART",
    "Address",
    "Cluster",
    "ClusterOptions",
    "ClusterTrace",
    "MemoryNeed",
    "NodeInfo",
    "NodeSettings",
    "NodeTimes",
    "StepTimes",
    "Worker",
    "available_memory_bytes",
    "chrome_trace",
    "default_cache_type",
    "default_threads",
    "machine_id",
    "memory_need",
    "peak_rss_bytes",
    "refuse_job",
    "serve_job",
    "session_shape",
    "use_processors",
    "waited_for",
]
