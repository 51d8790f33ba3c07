"""What the planner remembers of operations on `meta`: the same as torch gives."""

from __future__ import annotations

import pytest
import torch

from rlr_core.planner.shapes import Shapes


def blank(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


aten = torch.ops.aten


@pytest.mark.parametrize(
    ("operation", "args"),
    [
        (aten.mm.default, (blank(3, 4), blank(5, 4).t())),
        (aten.convolution.default, (blank(1, 2, 8, 8), blank(3, 2, 3, 3), None, [2, 2], [1, 1], [1, 1], False, [0, 0], 1)),
        (aten.native_layer_norm.default, (blank(2, 4), [4], None, None, 1e-5)),
        (aten.add.Tensor, (blank(2, 3), blank(3))),
        (aten.cat.default, ([blank(1, 4), blank(2, 4)],)),
        (aten.t.default, (blank(3, 4),)),
        (aten.add_.Tensor, (blank(3, 4), 1)),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_remembered_is_what_torch_gives(operation, args) -> None:
    """Sizes, work, and whether the storage is a new one."""
    shapes = Shapes()
    (first, work), (again, same_work) = shapes(operation, args, {}), shapes(operation, args, {})
    assert work == same_work and type(first) is type(again)
    many = isinstance(first, tuple)
    for one, other in zip(first, again, strict=True) if many else [(first, again)]:
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
        shared = one.untyped_storage()._cdata == other.untyped_storage()._cdata
        assert shared is (operation in (aten.t.default, aten.add_.Tensor))


def test_numbers_that_count_are_not_remembered() -> None:
    shapes, rows = Shapes(), torch.arange(4)
    assert [len(shapes(aten.index.Tensor, (rows, [rows > k]), {})[0]) for k in (0, 2)] == [3, 1]
