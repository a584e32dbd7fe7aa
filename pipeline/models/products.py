"""Matrix products by onnxruntime or numpy: of a long matrix with twenty columns onnxruntime takes two thirds to three quarters.

Numpy's OpenBLAS copies both matrices into blocks of its own before it multiplies, onnxruntime's MLAS the narrow one only. From
64 columns on numpy takes less, if it need not ask for new memory.
"""

import functools
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession

from pipeline.models.graph import GraphBuilder, open_graph

Float32 = npt.NDArray[np.float32]
_WIDE: Final = 64


def product(rows: Float32, columns: Float32, room: Float32) -> Float32:
    """Matrices (n, d) and (d, m) without gaps in memory, or they are copied -> (n, m), in `room` or elsewhere. Thread-safe."""
    if columns.shape[1] >= _WIDE:
        return np.dot(rows, columns, out=room)
    session: Any = _session()
    return cast(Float32, session.run(["product"], {"rows": rows, "columns": columns})[0])


@functools.cache
def _session() -> InferenceSession:
    graph = GraphBuilder({})
    graph.add_many("MatMul", ["rows", "columns"], ["product"])
    return open_graph(graph.model({"rows": ["n", "d"], "columns": ["d", "m"]}, {"product": ["n", "m"]}))
