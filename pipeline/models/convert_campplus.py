"""CAM++ (Wang et al. 2023, https://arxiv.org/abs/2303.00332) from its checkpoint to ONNX.

Layers as in 3D-Speaker's `speakerlab/models/campplus`. The embedding is the output of the last batch normalisation, which has
neither scale nor shift; the ReLU that some copies of the code put behind it is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from pipeline.models.graph import AnyArray, GraphBuilder

BINS = 80
_BLOCKS = ((12, 1), (24, 2), (16, 2))  # layers and dilation of each dense block
_SEGMENT_FRAMES = 100  # of the context mask's average pooling


def convert(weights: Mapping[str, AnyArray]) -> onnx.ModelProto:
    """The graph: `features` float32 (batch, frames, 80) -> `embedding` float32 (batch, 192), any number of frames >= 3.

    Raises KeyError when the checkpoint lacks a layer.
    """
    g = GraphBuilder(weights)
    x = g.add("Transpose", "features", perm=[0, 2, 1])
    x = g.add("Unsqueeze", x, g.ints(1))
    x = _head(g, x)
    x = g.conv(x, "xvector.tdnn.linear", strides=[2], pads=[2, 2])
    x = g.add("Relu", g.batch_norm(x, "xvector.tdnn.nonlinear.batchnorm"))
    segment_of_frame = _segment_of_frame(g, x)
    for block, (layers, dilation) in enumerate(_BLOCKS, start=1):
        for layer in range(1, layers + 1):
            dense = _dense_layer(g, x, f"xvector.block{block}.tdnnd{layer}", dilation, segment_of_frame)
            x = g.add("Concat", x, dense, axis=1)
        x = g.add("Relu", g.batch_norm(x, f"xvector.transit{block}.nonlinear.batchnorm"))
        x = g.conv(x, f"xvector.transit{block}.linear")
    x = g.add("Relu", g.batch_norm(x, "xvector.out_nonlinear.batchnorm"))
    x = g.conv(_statistics(g, x), "xvector.dense.linear")
    x = g.add("Squeeze", g.batch_norm(x, "xvector.dense.nonlinear.batchnorm"), g.ints(2))
    g.add_many("Identity", [x], ["embedding"])
    return g.model({"features": ["batch", "frames", BINS]}, {"embedding": ["batch", 192]})


def _head(g: GraphBuilder, x: str) -> str:
    """The 2-D convolutions: (batch, 1, 80, frames) -> (batch, 320, frames)."""
    x = g.add("Relu", g.batch_norm(g.conv(x, "head.conv1", pads=[1, 1, 1, 1]), "head.bn1"))
    for block in ("head.layer1.0", "head.layer1.1", "head.layer2.0", "head.layer2.1"):
        x = _residual(g, x, block, stride=2 if block.endswith(".0") else 1)
    x = g.add("Relu", g.batch_norm(g.conv(x, "head.conv2", strides=[2, 1], pads=[1, 1, 1, 1]), "head.bn2"))
    return g.add("Reshape", x, g.ints(0, 320, -1))


def _residual(g: GraphBuilder, x: str, name: str, stride: int) -> str:
    y = g.conv(x, f"{name}.conv1", strides=[stride, 1], pads=[1, 1, 1, 1])
    y = g.add("Relu", g.batch_norm(y, f"{name}.bn1"))
    y = g.batch_norm(g.conv(y, f"{name}.conv2", pads=[1, 1, 1, 1]), f"{name}.bn2")
    if f"{name}.shortcut.0.weight" in g.weights:
        x = g.batch_norm(g.conv(x, f"{name}.shortcut.0", strides=[stride, 1]), f"{name}.shortcut.1")
    return g.add("Relu", g.add("Add", y, x))


def _segment_of_frame(g: GraphBuilder, x: str) -> str:
    """For each frame the number of its segment, int64 (frames,)."""
    frames = g.add("Squeeze", g.add("Shape", x, start=2, end=3), g.ints(0))
    zero, one = g.constant("zero", np.array(0, np.int64)), g.constant("one", np.array(1, np.int64))
    return g.add("Div", g.add("Range", zero, frames, one), g.ints(_SEGMENT_FRAMES))


def _dense_layer(g: GraphBuilder, x: str, name: str, dilation: int, segment_of_frame: str) -> str:
    """One densely connected layer with context-aware masking: (batch, in, frames) -> (batch, 32, frames)."""
    x = g.add("Relu", g.batch_norm(x, f"{name}.nonlinear1.batchnorm"))
    x = g.conv(x, f"{name}.linear1")
    x = g.add("Relu", g.batch_norm(x, f"{name}.nonlinear2.batchnorm"))
    y = g.conv(x, f"{name}.cam_layer.linear_local", pads=[dilation, dilation], dilations=[dilation])
    segments = g.add("AveragePool", x, kernel_shape=[_SEGMENT_FRAMES], strides=[_SEGMENT_FRAMES], ceil_mode=1)
    context = g.add("Add", g.add("ReduceMean", x, axes=[2], keepdims=1), segments)
    mask = g.add("Relu", g.conv(context, f"{name}.cam_layer.linear1"))
    mask = g.add("Sigmoid", g.conv(mask, f"{name}.cam_layer.linear2"))
    # the mask is the same for all frames of a segment: it is computed for each segment and then repeated
    return g.add("Mul", y, g.add("Gather", mask, segment_of_frame, axis=2))


def _statistics(g: GraphBuilder, x: str) -> str:
    """Mean and unbiased standard deviation over the frames: (batch, c, frames) -> (batch, 2c, 1)."""
    mean = g.add("ReduceMean", x, axes=[2], keepdims=1)
    squares = g.add("ReduceSumSquare", g.add("Sub", x, mean), axes=[2], keepdims=1)
    frames = g.add("Cast", g.add("Shape", x, start=2, end=3), to=int(onnx.TensorProto.FLOAT))
    variance = g.add("Div", squares, g.add("Sub", frames, g.constant("one_float", np.ones(1, np.float32))))
    return g.add("Concat", mean, g.add("Sqrt", variance), axis=1)
