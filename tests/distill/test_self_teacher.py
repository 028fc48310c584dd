"""The copy's weights against a recursion in NumPy, what a flag leaves alone, and what running it does not touch."""

from copy import deepcopy
from itertools import pairwise
from typing import Any, cast

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dist_rec.distill import SelfTeacher, self_teacher
from dist_rec.distill.self_teacher import TeacherKind

APPLIED = (True, False, True, True, False, True)
COPIES: list[TeacherKind] = ["frozen", "ema", "trust_region"]


class _Model(nn.Module):
    """Float and integer buffers, one of them infinite, dropout, and a weight with two names."""

    flags: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.dropout = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.tied = self.layer
        self.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
        self.register_buffer("flags", torch.tensor([True, False]))

    def forward(self, x: Tensor, more: dict[str, list[Tensor]] | None = None) -> Any:
        out = self.dropout(self.norm(self.layer(x)))
        return (out, more) if more is not None else out


def _change(module: nn.Module, seed: int) -> None:
    """As training changes weights and statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
        model = cast(_Model, module)
        assert model.norm.running_mean is not None and model.norm.num_batches_tracked is not None
        model.norm.running_mean.copy_(torch.randn(3, generator=generator))
        model.norm.num_batches_tracked.fill_(seed)
        model.flags.logical_not_()


def _arrays(module: nn.Module | None) -> dict[str, numpy.ndarray]:
    assert module is not None
    return {name: tensor.double().numpy().copy() for name, tensor in module.state_dict().items()}


def _teacher(kind: TeacherKind, **options: Any) -> tuple[_Model, SelfTeacher]:
    model = _Model()
    return model, SelfTeacher(model, kind=kind, **options)


@pytest.mark.parametrize("rate", [0.05, 0.7, 1.0])
def test_the_average_is_the_recursion(rate: float) -> None:
    model, teacher = _teacher("ema", rate=rate)
    expected = _arrays(model)
    for version, applied in enumerate(APPLIED, 1):
        _change(model, version)
        teacher.advance(model, torch.tensor(applied))
        if applied:
            for name, live in _arrays(model).items():
                whole = name.endswith(("tracked", "flags"))
                expected[name] = live if whole else (1 - rate) * expected[name] + rate * live if rate < 1 else live
        found = _arrays(teacher.copy)
        for name in expected:
            numpy.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert teacher.versions.item() == sum(APPLIED) and teacher.ready.item()


@pytest.mark.parametrize("kind", ["frozen", "trust_region"])
@pytest.mark.parametrize("start", [0, 1, 3])
def test_the_copy_of_one_version(kind: TeacherKind, start: int) -> None:
    model, teacher = _teacher(kind, start=start)
    kept, versions = _arrays(model), 0
    assert teacher.ready.item() == (start == 0)
    for step, applied in enumerate(APPLIED, 1):
        _change(model, step)
        teacher.advance(model, torch.tensor(applied))
        versions += applied
        if applied and versions == start:
            kept = _arrays(model)
        assert teacher.ready.item() == (versions >= start)
        for name, found in _arrays(teacher.copy).items():
            numpy.testing.assert_array_equal(found, kept[name], err_msg=name)


def _writes(teacher: SelfTeacher) -> int:
    """How often the copy's weights were written in place."""
    return sum(p._version for p in teacher.parameters())


@pytest.mark.parametrize("kind", ["frozen", "trust_region"])
def test_a_copy_that_was_taken_is_not_written_again(kind: TeacherKind) -> None:
    """Nor before its version, as far as the host knows that every update was applied."""
    model, teacher = _teacher(kind, start=3)
    writes = [_writes(teacher)]
    for version in range(1, 6):
        _change(model, version)
        teacher.advance(model)
        writes.append(_writes(teacher))
    assert [after > before for before, after in pairwise(writes)] == [False, False, True, False, False]
    kept = _arrays(teacher.copy)
    teacher.advance(model, torch.tensor(False))  # from here only the device knows
    teacher.advance(model)
    assert _writes(teacher) > writes[-1]
    assert all((value == kept[name]).all() for name, value in _arrays(teacher.copy).items())
    assert teacher.versions.item() == 6


@pytest.mark.parametrize("saved_after", [1, 3, 5])
def test_a_loaded_teacher_knows_its_version(saved_after: int) -> None:
    model, teacher = _teacher("frozen", start=3)
    resumed = SelfTeacher(_Model(), kind="frozen", start=3)
    for version in range(1, 8):
        _change(model, version)
        if version > saved_after:
            before = _writes(resumed)
            resumed.advance(model)
            assert (_writes(resumed) > before) == (version == 3)
        teacher.advance(model)
        if version == saved_after:
            nn.ModuleDict({"inside": resumed}).load_state_dict(
                {f"inside.{name}": value for name, value in teacher.state_dict().items()}
            )
    assert all(torch.equal(resumed.state_dict()[name], value) for name, value in teacher.state_dict().items())


def test_weights_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every update would pay for it."""
    model, teacher = _teacher("ema")
    compared: list[nn.Module] = []
    check = self_teacher._check_pairs
    monkeypatch.setattr(
        self_teacher, "_check_pairs", lambda copy, module: (compared.append(module), check(copy, module))
    )
    for _ in range(3):
        teacher.advance(model)
    assert compared == [model]


@pytest.mark.parametrize("kind", COPIES)
def test_what_is_not_applied_moves_nothing_to_the_bit(kind: TeacherKind) -> None:
    """Nor does what is not a number, nor the sign of zero."""
    model = _Model()
    nn.init.constant_(model.layer.bias, -0.0)
    teacher = SelfTeacher(model, kind=kind, start=1)
    _change(model, 1)
    nn.init.constant_(model.layer.weight, float("nan"))
    teacher.advance(model, torch.tensor(False))
    assert teacher.copy is not None
    bias = cast(_Model, teacher.copy).layer.bias
    assert bias.signbit().all() and not bias.any()
    assert all(not tensor.isnan().any() for tensor in teacher.copy.state_dict().values())


def test_constant_weights_stay_as_they_are() -> None:
    model, teacher = _teacher("ema", rate=0.3)
    for _ in range(5):
        teacher.advance(model)
    assert teacher.versions.item() == 5
    for name, found in _arrays(teacher.copy).items():
        numpy.testing.assert_array_equal(found, _arrays(model)[name], err_msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", COPIES)
def test_other_dtypes(kind: TeacherKind, dtype: torch.dtype) -> None:
    """Two widths of elements in one module."""
    first, second = nn.Linear(2, 2).to(dtype), nn.Linear(2, 2)
    model = nn.Sequential(first, second)
    teacher = SelfTeacher(model, kind=kind, start=1, rate=1.0)
    nn.init.constant_(first.weight, 2.0)
    nn.init.constant_(second.weight, 3.0)
    teacher.advance(model)
    weights = [p for p in teacher.parameters() if p.dim() == 2]
    assert [p.dtype for p in weights] == [dtype, torch.float32]
    assert [p.unique().tolist() for p in weights] == [[2.0], [3.0]]


class _NoReads(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal)
        assert func.overloadpacket not in reads, f"the host reads the device in {func}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["live", *COPIES])
def test_the_host_reads_nothing(kind: TeacherKind) -> None:
    model, teacher = _teacher(kind, start=2)
    x, applied = torch.randn(4, 3), torch.tensor(True)
    with _NoReads():
        teacher.advance(model, applied)
        teacher.advance(model)
        if teacher.needs_copy:
            teacher(x)
        assert teacher.ready.dtype == torch.bool
        teacher.combine(x if teacher.needs_live else None, x if teacher.needs_copy else None)


def test_the_copy_shares_nothing_with_the_module() -> None:
    model, teacher = _teacher("ema")
    assert {f"copy.{name}" for name in model.state_dict()} | {"versions"} == set(teacher.state_dict())
    assert not {id(p) for p in model.parameters()} & {id(p) for p in teacher.parameters()}
    assert not any(p.requires_grad for p in teacher.parameters()), "an optimizer leaves it alone"
    assert len(list(teacher.parameters())) == len(list(model.parameters())), "a tied weight is there once"
    assert model not in list(teacher.modules()) and all(p.requires_grad for p in model.parameters())


def test_live_keeps_nothing() -> None:
    model, teacher = _teacher("live")
    teacher.advance(model)
    teacher.advance(model, torch.tensor(False))
    assert set(teacher.state_dict()) == {"versions"} and teacher.versions.item() == 1 and teacher.ready.item()
    with pytest.raises(RuntimeError, match="a live teacher has no copy"):
        teacher(torch.zeros(4, 3))


def test_running_it_leaves_gradients_and_random_numbers_alone() -> None:
    model, teacher = _teacher("ema")
    teacher.train()
    assert teacher.training and teacher.copy is not None
    assert not any(module.training for module in teacher.copy.modules())
    before, state = _arrays(teacher), torch.get_rng_state()
    x, y = torch.randn(4, 3, generator=torch.Generator()).requires_grad_(), torch.ones(1, requires_grad=True)
    out, more = teacher(x, more={"list": [y]})
    assert torch.equal(torch.get_rng_state(), state), "no dropout"
    assert not out.requires_grad and not more["list"][0].requires_grad and y.requires_grad
    torch.testing.assert_close(out, deepcopy(model).eval()(x).detach())
    assert all((value == before[name]).all() for name, value in _arrays(teacher).items()), "no statistics"
    model(x).sum().backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_combining() -> None:
    live, copied = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, -2.0])
    found = {}
    for kind in ("live", "frozen", "ema", "trust_region"):
        _, teacher = _teacher(kind, rate=0.25)
        found[kind] = teacher.combine(live if teacher.needs_live else None, copied if teacher.needs_copy else None)
        assert not found[kind].requires_grad
        assert torch.equal(teacher.combine(live, copied), found[kind]), "what is not needed is not used"
    assert {kind: z.tolist() for kind, z in found.items()} == {
        "live": [1.0, 2.0], "frozen": [3.0, -2.0], "ema": [3.0, -2.0], "trust_region": [2.5, -1.0],
    }  # fmt: skip
    p, q, mixed = live.detach().sigmoid(), copied.sigmoid(), found["trust_region"].sigmoid()
    weights = p**0.25 * q**0.75, (1 - p) ** 0.25 * (1 - q) ** 0.75
    torch.testing.assert_close(mixed, weights[0] / (weights[0] + weights[1]))


@pytest.mark.parametrize(
    ("kind", "z", "missing"),
    [("live", (None, 1), "z_live"), ("ema", (1, None), "z_copy"), ("trust_region", (None, 1), "z_live")],
)
def test_logits_that_are_missing(kind: TeacherKind, z: tuple[Any, Any], missing: str) -> None:
    _, teacher = _teacher(kind)
    z_live, z_copy = (None if value is None else torch.zeros(2) for value in z)
    with pytest.raises(ValueError, match=f"a teacher of kind {kind} needs {missing}, got None"):
        teacher.combine(z_live, z_copy)


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("saved_after", [1, 3])
def test_it_continues_from_its_state_to_the_bit(kind: TeacherKind, saved_after: int) -> None:
    model, teacher = _teacher(kind, rate=0.3, start=2)
    resumed = SelfTeacher(_Model(), kind=kind, rate=0.3, start=2)
    for version in range(1, 6):
        _change(model, version)
        teacher.advance(model)
        if version == saved_after:
            resumed.load_state_dict(deepcopy(teacher.state_dict()))
        elif version > saved_after:
            resumed.advance(model)
    for name, value in teacher.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Linear(2, 2, bias=False), r"1 differ, the first is bias: expected \(2,\) torch.float32, got none"),
        (nn.Linear(3, 2), r"1 differ, the first is weight: expected \(2, 2\) torch.float32, got \(2, 3\)"),
        (nn.Sequential(nn.Linear(2, 2)), r"4 differ, the first is 0.bias: expected none, got \(2,\)"),
        (nn.Linear(2, 2).double(), "2 differ, the first is bias: .* got .*torch.float64"),
    ],
)
def test_another_module(other: nn.Module, message: str) -> None:
    teacher = SelfTeacher(nn.Linear(2, 2), kind="ema")
    with pytest.raises(ValueError, match=message):
        teacher.advance(other)
    assert teacher.versions.item() == 0


@pytest.mark.parametrize("applied", [torch.tensor(1.0), torch.tensor([True])])
def test_a_flag_of_another_kind(applied: Tensor) -> None:
    model, teacher = _teacher("ema")
    with pytest.raises(ValueError, match=r"applied must be \(\) bool, got"):
        teacher.advance(model, applied)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "best"}, "kind must be live or frozen or ema or trust_region, got 'best'"),
        ({"kind": "ema", "rate": 0.0}, r"rate must be in \(0, 1\], got 0.0"),
        ({"kind": "ema", "rate": 1.5}, r"rate must be in \(0, 1\], got 1.5"),
        ({"kind": "ema", "rate": float("nan")}, r"rate must be in \(0, 1\], got nan"),
        ({"kind": "frozen", "start": -1}, "start must be a version, 0 or later, got -1"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfTeacher(nn.Linear(2, 2), **options)
