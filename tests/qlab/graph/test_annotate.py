"""The plan: what each operator gets under which qconfig, and the reason it gives."""

import copy

import pytest
import torch
from torch import Tensor, nn

from qlab import presets
from qlab.granularity import PerAxis, PerGroup
from qlab.graph import Plan, annotate, fuse, trace
from qlab.observers import FixedQParamsObserver, MinMaxObserver
from qlab.qconfig import QConfig, QConfigMapping, default_activation_only_qconfig, qconfig_of
from qlab.ranges import Fixed, TensorSpec
from tests.workflows.architectures import NETS

ACTIVATION, WEIGHT = TensorSpec.uint8_activation(), TensorSpec.int8_weight()
INT8 = qconfig_of(ACTIVATION, WEIGHT)
EVERYWHERE = QConfigMapping().set_global(INT8)


def plan_of(model: nn.Module, mapping: QConfigMapping, *inputs: Tensor) -> Plan:
    return annotate(fuse(trace(model.eval(), inputs)), mapping)


def summary(plan: Plan) -> dict[str, str]:
    return {step.name: step.execution for step in plan.steps}


class Net(nn.Module):
    """Two branches into an addition, then a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.left = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.right = nn.Conv2d(4, 4, 1)
        self.pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.flatten(self.pool(self.left(x) + self.right(x))))


X = torch.randn(2, 3, 8, 8)


def test_everything_asked_for_is_in_codes():
    plan = plan_of(Net(), EVERYWHERE, X)
    assert summary(plan) == {
        "stem": "integer",
        "left.0": "integer",
        "right": "integer",
        "add": "integer",
        "pool": "shared",
        "flatten": "shared",
        "head": "integer",
    }
    left = plan.step("left.0")
    assert left.fused == ("left.1", "left.2")
    assert (left.inputs, left.weight, left.output) == ((ACTIVATION,), WEIGHT, ACTIVATION)
    assert left.reason == "uint8 × int8 → uint8"
    assert left.requested == INT8 and left.row == "conv_relu2d" and left.quantized
    assert plan.step("add").inputs == (ACTIVATION, ACTIVATION)
    assert [s.name for s in plan.quantized_steps] == ["stem", "left.0", "right", "add", "head"]


def test_values_share_what_their_source_found():
    values = plan_of(Net(), EVERYWHERE, X).by_node
    assert {node: value.source for node, value in values.items()} == {
        "x": "x",
        "stem": "stem",
        "left_0": "left_0",
        "right": "right",
        "add": "add",
        "pool": "add",
        "flatten": "add",
        "head": "head",
    }
    assert values["x"].asked_by == "stem"
    assert [node for node, value in values.items() if not value.observed] == ["pool", "flatten"]


def test_annotate_changes_nothing_and_repeats_itself():
    graph = fuse(trace(Net().eval(), X))
    code, state = graph.code, copy.deepcopy(graph.state_dict())
    metas = [dict(node.meta) for node in graph.graph.nodes]
    first, second = annotate(graph, EVERYWHERE), annotate(graph, EVERYWHERE)
    assert first == second
    assert graph.code == code
    assert [dict(node.meta) for node in graph.graph.nodes] == metas
    for key, value in graph.state_dict().items():
        assert torch.equal(value, state[key])


def test_a_mixed_mapping():
    four = qconfig_of(ACTIVATION, TensorSpec("qint4", symmetric=True))
    mapping = (
        QConfigMapping()
        .set_global(INT8)
        .set_module_name("right", None)
        .set_module_name("head", four)
        .set_module_name_regex("nothing.*", four)
    )
    plan = plan_of(Net(), mapping, X)
    assert plan.unmatched == ("regex 'nothing.*'",)
    right = plan.step("right")
    assert (right.execution, right.output, right.weight, right.inputs) == (
        *("float", None, None),
        (None,),
    )
    assert right.reason == "kept in float by module name 'right'"
    assert plan.step("head").weight == TensorSpec("qint4", symmetric=True)
    assert plan.step("head").reason == "uint8 × int4 → uint8"
    # the addition takes the float branch in codes, as its own qconfig asks
    assert plan.step("add").inputs == (ACTIVATION, ACTIVATION)
    assert plan.by_node["right"].asked_by == "add"


def test_the_producer_decides_how_a_tensor_is_quantized():
    coarse = TensorSpec("quint4")
    mapping = QConfigMapping().set_global(INT8).set_module_name("stem", qconfig_of(coarse, WEIGHT))
    plan = plan_of(Net(), mapping, X)
    assert plan.by_node["x"].spec == coarse
    assert plan.step("stem").output == coarse
    assert plan.step("right").inputs == (coarse,)
    assert plan.step("right").output == ACTIVATION


def test_one_layer_alone():
    plan = plan_of(Net(), QConfigMapping().set_module_name("left.0", INT8), X)
    assert {name for name, how in summary(plan).items() if how != "float"} == {"left.0"}
    assert set(plan.by_node) == {"stem", "left_0"}
    assert plan.by_node["stem"].asked_by == "left.0"


@pytest.mark.parametrize(
    ("preset", "execution", "reason"),
    [
        ("float8", "simulated", "float8_e4m3fn codes are not integers"),
        ("int16-activations", "simulated", "sums of int16 products do not fit an integer kernel"),
        ("int4-weights", "integer", "uint8 × int4 → uint8"),
        ("int8-weights-only", "simulated", "weight-only qconfig: float arithmetic"),
    ],
)
def test_presets_and_what_they_come_to(preset: str, execution: str, reason: str):
    step = plan_of(Net(), presets.get(preset).mapping(), X).step("stem")
    assert step.execution == execution
    assert step.reason.startswith(reason)


def test_weight_only_quantizes_no_activation():
    plan = plan_of(Net(), presets.get("int8-weights-only").mapping(), X)
    assert plan.values == ()
    stem, add, flatten = plan.step("stem"), plan.step("add"), plan.step("flatten")
    assert (stem.inputs, stem.output) == ((None,), None)
    assert stem.weight is not None and stem.quantized
    assert (add.execution, add.reason) == ("float", "its qconfig leaves activations in float")
    assert (flatten.execution, flatten.output) == ("shared", None)


def test_activation_only_quantizes_no_weight():
    plan = plan_of(Net(), QConfigMapping().set_global(default_activation_only_qconfig), X)
    step = plan.step("stem")
    assert (step.execution, step.weight) == ("simulated", None)
    assert step.output is not None
    assert step.reason.startswith("activation-only qconfig")


def test_scales_along_the_summed_axis_are_simulated():
    groups = TensorSpec("qint4", symmetric=True, granularity=PerGroup(16, 1))
    mapping = QConfigMapping().set_module_name("head", qconfig_of(ACTIVATION, groups))
    step = plan_of(Net(), mapping, X).step("head")
    assert step.execution == "simulated"
    assert "lie along the axis that is summed" in step.reason


def test_a_granularity_that_does_not_fit_leaves_the_layer_in_float():
    groups = TensorSpec("qint4", symmetric=True, granularity=PerGroup(7, 1))
    step = plan_of(
        Net(), QConfigMapping().set_module_name("head", qconfig_of(ACTIVATION, groups)), X
    ).step("head")
    assert step.execution == "float"
    assert "the weight cannot be quantized so" in step.reason and "64" in step.reason
    channels = TensorSpec("quint8", granularity=PerAxis(1))
    step = plan_of(
        Net(), QConfigMapping().set_module_name("head", qconfig_of(channels, WEIGHT)), X
    ).step("head")
    assert step.execution == "float"
    assert step.reason.startswith("an activation has one scale for the whole tensor")


class Known(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(torch.sigmoid(x))


def test_known_ranges_are_fixed_in_every_type():
    plan = plan_of(Known(), EVERYWHERE, X)
    assert plan.step("sigmoid").output == TensorSpec("quint8", policy=Fixed(1 / 256, 0))
    assert plan.step("tanh").output == TensorSpec("quint8", policy=Fixed(2 / 256, 128))
    assert plan.by_node["sigmoid"].fixed and not plan.by_node["sigmoid"].observed
    four = QConfigMapping().set_global(qconfig_of(TensorSpec("quint4"), None))
    assert plan_of(Known(), four, X).step("sigmoid").output.policy == Fixed(1 / 16, 0)


def test_a_fixed_range_that_was_asked_for_stands():
    own = QConfig(FixedQParamsObserver.with_args(scale=0.5, zero_point=3), MinMaxObserver)
    plan = plan_of(Known(), QConfigMapping().set_global(own), X)
    assert plan.step("sigmoid").output.policy == Fixed(0.5, 3)


class Leading(nn.Module):
    """Views and pooling of the input, before the first layer that computes."""

    def __init__(self, leak: bool = False):
        super().__init__()
        self.pool, self.fc, self.leak = nn.AvgPool2d(2), nn.Linear(48, 4), leak

    def forward(self, x: Tensor):
        y = torch.flatten(self.pool(x), 1)
        return (self.fc(y), y) if self.leak else self.fc(y)


def test_what_leads_into_codes_is_in_codes_from_the_start():
    plan = plan_of(Leading(), EVERYWHERE, X)
    assert summary(plan) == {"pool": "shared", "flatten": "shared", "fc": "integer"}
    assert plan.by_node["flatten"].source == "x"


def test_what_is_read_in_float_as_well_stays_in_float():
    plan = plan_of(Leading(leak=True), EVERYWHERE, X)
    assert summary(plan) == {"pool": "float", "flatten": "shared", "fc": "integer"}
    assert plan.step("pool").reason == "its input is float and nothing behind it asks for codes"
    assert plan.step("flatten").output is None
    assert set(plan.by_node) == {"flatten", "fc"}


def test_chunks_are_in_codes_if_all_of_them_are():
    class Chunks(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x):
            return self.fc(torch.stack(self.fc(x).chunk(2, -1), 1).flatten(1))

    step = plan_of(Chunks(), EVERYWHERE, torch.randn(4, 8)).step("chunk")
    assert (step.execution, step.reason) == ("float", "its pieces are not all passed on in codes")
    make, inputs = NETS["encoder"]
    mapping = QConfigMapping().set_global(INT8)
    assert plan_of(make(), mapping, *inputs()).step("chunk").output == ACTIVATION
    mapping.set_module_name("getitem_2", None)
    assert plan_of(make(), mapping, *inputs()).step("chunk").execution == "float"


def test_operands_that_are_no_real_numbers():
    class Counted(nn.Module):
        def forward(self, x):
            return x + x.argmax(-1, keepdim=True)

    plan = plan_of(Counted(), EVERYWHERE, torch.randn(4, 8))
    assert plan.step("argmax").execution == "none"
    assert plan.step("argmax").reason == "its result is not real numbers"
    assert plan.step("add").reason == "an operand is not a tensor of real numbers"


def test_further_arguments_leave_a_layer_in_float():
    class Resized(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose1d(2, 2, 2, stride=2)

        def forward(self, x):
            return self.up(self.up(x), [13])

    plan = plan_of(Resized(), EVERYWHERE, torch.randn(1, 2, 3))
    assert plan.step("up_1").execution == "float"
    assert plan.step("up_1").reason == "it is called with further arguments"


def test_a_constant_operand_needs_no_statistics():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.randn(8))

        def forward(self, x):
            return x + self.shift

    value = plan_of(Shifted(), EVERYWHERE, torch.randn(4, 8)).by_node["shift"]
    assert value.constant and not value.observed and value.asked_by == "add"


@pytest.mark.parametrize("name", NETS)
def test_every_operator_has_a_step_with_a_reason(name: str):
    make, inputs = NETS[name]
    graph = fuse(trace(make().eval(), inputs()))
    plan = annotate(graph, EVERYWHERE)
    calls = [
        n for n in graph.graph.nodes if n.op in ("call_module", "call_function", "call_method")
    ]
    assert [step.node for step in plan.steps] == [node.name for node in calls]
    assert all(step.reason for step in plan.steps)
    assert len({step.name for step in plan.steps}) == len(plan.steps)


def test_a_chain_of_clamps_gives_range_and_bounds():
    class Clamped(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.relu = nn.GroupNorm(1, 3), nn.ReLU()
            self.clip = nn.Hardtanh(-1.0, 2.0)

        def forward(self, x):
            return self.clip(self.relu(self.norm(x)))

    plan = plan_of(Clamped(), EVERYWHERE, X)
    assert plan.step("norm").bounds == (0.0, 2.0)
    assert plan.step("norm").reason.endswith("in the range that clip leaves")
    assert {value.source for value in plan.values} == {"x", "clip"}
    assert plan.step("relu").bounds is None
