"""What passes must know of operators beyond their schema: one table, no branches elsewhere.

Sets name standard operators, or ours as ``onyxc.Name``.
"""

from __future__ import annotations

from onyxc.compiler.ir.graph import Node

UNARY = frozenset(
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid "
    "HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin "
    "Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu".split()
)
BROADCASTING = frozenset(
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Clip Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean "
    "Min Mod Mul Or PRelu Pow Sub Sum Where Xor".split()
)
OWN_ELEMENTWISE = frozenset({"onyxc.Requantize", "onyxc.Rescale", "onyxc.QAdd", "onyxc.QMul", "onyxc.Lookup"})
SCALED = frozenset({"QuantizeLinear", "DequantizeLinear"})  # elementwise but for parameters along an axis
ELEMENTWISE = UNARY | BROADCASTING | OWN_ELEMENTWISE | SCALED
# Long polynomials: few of them fit the epilogue of a register tile, which is written out for every accumulator.
DEAR = frozenset(
    "Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp Gelu Log Mish Mod Pow Selu Sigmoid Sin Sinh Softplus "
    "Swish Tan Tanh".split()
)
COMMUTATIVE = frozenset("Add Mul And Or Xor BitwiseAnd BitwiseOr BitwiseXor Equal Max Min Sum Mean".split())

# Fewer bytes move when these read a view; they never change values, and share memory when nothing moves.
VIEWS = frozenset("Reshape Squeeze Unsqueeze Flatten Identity".split())
MOVEMENT = VIEWS | frozenset("Transpose Slice Split Concat Expand Tile Pad Gather DepthToSpace SpaceToDepth".split())

CONVOLUTIONS = frozenset("Conv ConvInteger ConvTranspose onyxc.Conv onyxc.ConvTranspose".split())
PRODUCTS = frozenset("MatMul MatMulInteger Gemm onyxc.MatMul".split())
POOLS = frozenset("MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool onyxc.Pool".split())
REDUCTIONS = frozenset(
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
    "ReduceSumSquare".split()
)
NORMALIZATIONS = frozenset(
    "Softmax LogSoftmax LayerNormalization RMSNormalization InstanceNormalization GroupNormalization".split()
)
ANCHORS = CONVOLUTIONS | PRODUCTS | POOLS | REDUCTIONS | NORMALIZATIONS | {"onyxc.LRN", "Resize"}

NONDETERMINISTIC = frozenset("RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial".split())


def key(node: Node) -> str:
    """The operator as the sets above spell it."""
    return f"{node.domain}.{node.op}" if node.domain else node.op


def is_elementwise(node: Node) -> bool:
    """Whether output elements depend on the broadcast input elements at the same place only."""
    return key(node) in ELEMENTWISE and len(node.outputs) == 1
