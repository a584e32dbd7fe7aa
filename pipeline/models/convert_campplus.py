"""CAM++ (Wang et al. 2023, https://arxiv.org/abs/2303.00332) from its checkpoint to ONNX.

Layers as in 3D-Speaker's `speakerlab/models/campplus`. The embedding is the output of the last batch normalisation, which has
neither scale nor shift; the ReLU that some copies of the code put behind it is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from pipeline.models.graph import AnyArray, GraphBuilder

BINS = 80
_BLOCKS = ((12, 1), (24, 2), (16, 2))  # layers and dilation of each dense block
_SEGMENT_FRAMES = 100  # of the context mask's average pooling


def convert(weights: Mapping[str, AnyArray], *, with_lengths: bool = False) -> onnx.ModelProto:
    """The graph: `features` float32 (batch, frames, 80) -> `embedding` float32 (batch, 192), any number of frames >= 3.

    With lengths there is a second input, `lengths` float32 (batch,): how many frames of each row count. What is behind them, to
    fill up a batch, changes nothing but the last bits. Raises KeyError when the checkpoint lacks a layer.
    """
    g = GraphBuilder(weights)
    time = _Time(g, with_lengths=with_lengths)
    x = g.add("Transpose", "features", perm=[0, 2, 1])
    x = g.add("Unsqueeze", x, g.ints(1))
    x = _head(g, x, time)
    x = g.conv(time.kept(x), "xvector.tdnn.linear", strides=[2], pads=[2, 2])
    x = g.add("Relu", g.batch_norm(x, "xvector.tdnn.nonlinear.batchnorm"))
    time.halve(x)
    segment_of_frame = _segment_of_frame(g, x)
    for block, (layers, dilation) in enumerate(_BLOCKS, start=1):
        for layer in range(1, layers + 1):
            dense = _dense_layer(g, x, f"xvector.block{block}.tdnnd{layer}", dilation, segment_of_frame, time)
            x = g.add("Concat", x, dense, axis=1)
        x = g.add("Relu", g.batch_norm(x, f"xvector.transit{block}.nonlinear.batchnorm"))
        x = g.conv(x, f"xvector.transit{block}.linear")
    x = g.add("Relu", g.batch_norm(x, "xvector.out_nonlinear.batchnorm"))
    x = g.conv(_statistics(g, x, time), "xvector.dense.linear")
    x = g.add("Squeeze", g.batch_norm(x, "xvector.dense.nonlinear.batchnorm"), g.ints(2))
    g.add_many("Identity", [x], ["embedding"])
    inputs: dict[str, list[int | str]] = {"features": ["batch", "frames", BINS]}
    return g.model(inputs | ({"lengths": ["batch"]} if with_lengths else {}), {"embedding": ["batch", 192]})


def add_lengths(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with lengths, from a model that `convert` made. Raises KeyError for another one."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return convert(weights, with_lengths=True)


class _Time:
    """Sums, means and neighbours over the frames that count; all of them do where no lengths are given."""

    def __init__(self, g: GraphBuilder, *, with_lengths: bool) -> None:
        self._g = g
        self._length = g.add("Unsqueeze", "lengths", g.ints(1, 2)) if with_lengths else None
        self._mask = self._mask_of(g.add("Shape", "features", start=1, end=2)) if with_lengths else ""

    def _mask_of(self, frames: str) -> str:
        """(batch, 1, frames): 1 where a frame counts, 0 behind."""
        g, length = self._g, self._length
        assert length is not None
        zero, one = g.constant("zero", np.array(0, np.int64)), g.constant("one", np.array(1, np.int64))
        number = g.add("Cast", g.add("Range", zero, g.add("Squeeze", frames, g.ints(0)), one), to=int(onnx.TensorProto.FLOAT))
        return g.add("Cast", g.add("Less", number, length), to=int(onnx.TensorProto.FLOAT))

    def halve(self, x: str) -> None:
        """From here on there is a frame for every two, as in x (batch, c, frames)."""
        if self._length is not None:
            two = self._g.constant("two_float", np.array(2, np.float32))
            self._length = self._g.add("Ceil", self._g.add("Div", self._length, two))
            self._mask = self._mask_of(self._g.add("Shape", x, start=2, end=3))

    def kept(self, x: str, *, is_picture: bool = False) -> str:
        """(batch, c, frames), of a picture (batch, c, rows, frames), with zeros behind the frames that count."""
        if self._length is None:
            return x
        mask = self._g.add("Unsqueeze", self._mask, self._g.ints(1)) if is_picture else self._mask
        return self._g.add("Mul", x, mask)

    def mean(self, x: str) -> str:
        """(batch, c, frames), with zeros behind -> (batch, c, 1)."""
        if self._length is None:
            return self._g.add("ReduceMean", x, axes=[2], keepdims=1)
        return self._g.add("Div", self._g.add("ReduceSum", x, self._g.ints(2), keepdims=1), self._length)

    def segments(self, x: str) -> str:
        """The mean of each segment: (batch, c, frames), with zeros behind -> (batch, c, segments); 0 where no frame counts."""
        means = self._pooled(x)
        if self._length is None:
            return means
        least = self._g.constant("least_float", np.array(0.5 / _SEGMENT_FRAMES, np.float32))
        return self._g.add("Div", means, self._g.add("Max", self._pooled(self._mask), least))

    def _pooled(self, x: str) -> str:
        return self._g.add("AveragePool", x, kernel_shape=[_SEGMENT_FRAMES], strides=[_SEGMENT_FRAMES], ceil_mode=1)

    def count(self, x: str) -> str:
        """How many frames of (batch, c, frames) count."""
        if self._length is not None:
            return self._length
        return self._g.add("Cast", self._g.add("Shape", x, start=2, end=3), to=int(onnx.TensorProto.FLOAT))


def _head(g: GraphBuilder, x: str, time: _Time) -> str:
    """The 2-D convolutions: (batch, 1, 80, frames) -> (batch, 320, frames)."""
    x = g.conv(time.kept(x, is_picture=True), "head.conv1", pads=[1, 1, 1, 1])
    x = time.kept(g.add("Relu", g.batch_norm(x, "head.bn1")), is_picture=True)
    for block in ("head.layer1.0", "head.layer1.1", "head.layer2.0", "head.layer2.1"):
        x = time.kept(_residual(g, x, block, 2 if block.endswith(".0") else 1, time), is_picture=True)
    x = g.add("Relu", g.batch_norm(g.conv(x, "head.conv2", strides=[2, 1], pads=[1, 1, 1, 1]), "head.bn2"))
    return g.add("Reshape", x, g.ints(0, 320, -1))


def _residual(g: GraphBuilder, x: str, name: str, stride: int, time: _Time) -> str:
    y = g.conv(x, f"{name}.conv1", strides=[stride, 1], pads=[1, 1, 1, 1])
    y = time.kept(g.add("Relu", g.batch_norm(y, f"{name}.bn1")), is_picture=True)
    y = g.batch_norm(g.conv(y, f"{name}.conv2", pads=[1, 1, 1, 1]), f"{name}.bn2")
    if f"{name}.shortcut.0.weight" in g.weights:
        x = g.batch_norm(g.conv(x, f"{name}.shortcut.0", strides=[stride, 1]), f"{name}.shortcut.1")
    return g.add("Relu", g.add("Add", y, x))


def _segment_of_frame(g: GraphBuilder, x: str) -> str:
    """For each frame the number of its segment, int64 (frames,)."""
    frames = g.add("Squeeze", g.add("Shape", x, start=2, end=3), g.ints(0))
    zero, one = g.constant("zero", np.array(0, np.int64)), g.constant("one", np.array(1, np.int64))
    return g.add("Div", g.add("Range", zero, frames, one), g.ints(_SEGMENT_FRAMES))


def _dense_layer(g: GraphBuilder, x: str, name: str, dilation: int, segment_of_frame: str, time: _Time) -> str:
    """One densely connected layer with context-aware masking: (batch, in, frames) -> (batch, 32, frames)."""
    x = g.add("Relu", g.batch_norm(x, f"{name}.nonlinear1.batchnorm"))
    x = g.conv(x, f"{name}.linear1")
    x = time.kept(g.add("Relu", g.batch_norm(x, f"{name}.nonlinear2.batchnorm")))
    y = g.conv(x, f"{name}.cam_layer.linear_local", pads=[dilation, dilation], dilations=[dilation])
    segments = time.segments(x)
    context = g.add("Add", time.mean(x), segments)
    mask = g.add("Relu", g.conv(context, f"{name}.cam_layer.linear1"))
    mask = g.add("Sigmoid", g.conv(mask, f"{name}.cam_layer.linear2"))
    # the mask is the same for all frames of a segment: it is computed for each segment and then repeated
    return g.add("Mul", y, g.add("Gather", mask, segment_of_frame, axis=2))


def _statistics(g: GraphBuilder, x: str, time: _Time) -> str:
    """Mean and unbiased standard deviation over the frames: (batch, c, frames) -> (batch, 2c, 1)."""
    x = time.kept(x)
    mean = time.mean(x)
    squares = g.add("ReduceSumSquare", time.kept(g.add("Sub", x, mean)), axes=[2], keepdims=1)
    variance = g.add("Div", squares, g.add("Sub", time.count(x), g.constant("one_float", np.ones(1, np.float32))))
    return g.add("Concat", mean, g.add("Sqrt", variance), axis=1)
