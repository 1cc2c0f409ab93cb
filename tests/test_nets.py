"""Any backbone: torchvision's nets, timm's, one's own; what is no feature map is refused in one line."""

import errno
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torchvision
from conftest import SMALL, train
from safetensors.torch import save_file
from torch import nn

import ppcl
from ppcl import evaluation
from ppcl.data import stage_batches
from ppcl.disk import checkpoints
from ppcl.models import nets
from ppcl.models.backbone import Backbone
from ppcl.models.ppcl import PPCL
from ppcl.recipes import RecipeError, check_files, recipe


@pytest.fixture(scope="module")
def pictures(tiny, drawn):
    return stage_batches.training_data(tiny, drawn, quiet=True)


def with_net(name, **more):
    return recipe("person", "tiny", **SMALL, **{"backbone.architecture": name}, **more)


class Mine(nn.Sequential):
    """A net of a user's: 24 channels, stride 8."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 24, 8, 8), nn.BatchNorm2d(24), nn.ReLU())


@pytest.mark.parametrize("name, channels", [("mobilenet_v3_small", 576), ("torchvision:shufflenet_v2_x0_5", 1024)])
def test_a_net_of_torchvisions_goes_through_every_stage(pictures, tmp_path, name, channels):
    """At 64 x 32 and stride 16, less than their own, their maps have 4 x 2 positions."""
    train(with_net(name), pictures, tmp_path, ["ppcl"])
    model = ppcl.load(tmp_path, "person")
    assert model.backbone.channels == channels and model.recipe.backbone.architecture == name
    features = ppcl.describe(model, pictures.heldout, several=False)
    assert features.whitened.shape[1:] == (channels, 4, 2)
    distances = ppcl.match(model, ppcl.describe(model, pictures.heldout[:3]), features, shortlist=0, weight=0.5)
    assert distances.isfinite().all() and distances.std() > 0


@pytest.mark.parametrize("name, head", [("mobilenet_v3_small", "classifier"), ("resnet18", "fc")])
def test_the_map_is_what_torchvisions_own_head_reads(tmp_path, draw, name, head):
    """With a file of torchvision's weights in place of the network's: pooled and classified, its own answer."""
    torch.manual_seed(0)
    whole = torchvision.models.get_model(name).eval()
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    pictures = torch.randn(2, 3, 96, 64, generator=draw)
    with torch.inference_mode():
        found = nets.body(name, str(tmp_path / "weights.safetensors")).eval()(pictures)
        torch.testing.assert_close(getattr(whole, head)(found.mean((2, 3))), whole(pictures), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "efficientnet_b0", "convnext_tiny", "densenet121"])
def test_the_stride_of_any_net_is_lowered_and_its_weights_fit(name):
    found, picture = {stride: nets.body(name, "none", stride).eval() for stride in (8, 16)}, torch.zeros(1, 3, 96, 64)
    assert found[8].state_dict().keys() == found[16].state_dict().keys()
    with torch.inference_mode():
        assert [found[stride](picture).shape[2:] for stride in (8, 16)] == [(12, 8), (6, 4)]


def test_stride_16_is_the_usual_last_stride_of_a_resnet(draw):
    torch.manual_seed(0)
    whole, picture = torchvision.models.resnet50().eval(), torch.randn(1, 3, 64, 32, generator=draw)
    net = nets.body("resnet50", "none", 16).eval()
    net.load_state_dict(whole.state_dict(), strict=False)
    whole.layer4[0].conv2.stride = whole.layer4[0].downsample[0].stride = (1, 1)
    with torch.inference_mode():
        torch.testing.assert_close(whole.fc(net(picture).mean((2, 3))), whole(picture))


def test_frozen_layers_keep_weights_and_statistics_and_the_others_do_not(draw):
    net = Backbone(with_net("mobilenet_v2", **{"backbone.frozen": 4}).backbone, 5).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    net.classifier(net.neck(net(torch.randn(4, 3, 64, 32, generator=draw)).mean((2, 3)))).square().sum().backward()
    optimiser.step()
    same = {name for name, value in net.state_dict().items() if torch.equal(value, before[name])}
    first = tuple(f"body.features.{i}." for i in range(4))  # of stride 2, 2, 4, 4
    assert {name for name in before if name.startswith(first)} <= same
    assert not {name for name, _ in net.named_parameters() if name.startswith("body.features.5.")} & same


def test_imagenet_means_torchvisions_first_weights(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, *_, **__: asked.append(url) or 1 / 0)
    with pytest.raises(RuntimeError, match="could not be fetched"):
        nets.body("resnet50", "imagenet")
    assert asked == [torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url]


@pytest.mark.parametrize(("before", "after", "stride"), [(8, 16, 2), (8, 16, 1), (8, 8, 1)])
def test_our_residual_block_is_torchvisions_to_the_bit(before, after, stride, draw):
    skip = [nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))]
    theirs = torchvision.models.resnet.BasicBlock(before, after, stride, *skip * (stride != 1 or before != after))
    mine = nets.BasicBlock(before, after, stride)
    mine.load_state_dict(theirs.state_dict())
    assert list(mine.state_dict()) == list(theirs.state_dict())
    pictures = torch.randn(2, before, 8, 4, generator=draw)
    gradients = []
    for block in (mine, theirs):
        x = pictures.clone().requires_grad_()
        gradients.append(torch.autograd.grad(block(x).square().sum(), [x, *block.parameters()]))
    assert torch.equal(mine.eval()(pictures), theirs.eval()(pictures))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_torchvision_is_imported_only_for_its_nets():
    code = "import sys, ppcl.bench, ppcl.explore; ppcl.models.nets.body('small', 'none'); "
    code += "print('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_dropout_is_off_so_that_a_resumed_run_draws_the_same(draw):
    net, pictures = nets.body("efficientnet_b0", "none").train(), torch.randn(4, 3, 64, 64, generator=draw)
    with torch.no_grad():
        assert torch.equal(net(pictures), net(pictures))


def test_counting_the_channels_leaves_a_net_as_it_was():
    net = nets.body("small", "none").train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    assert nets.channels(net, "small") == 128 and all(layer.training for layer in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_a_net_of_timms(monkeypatch):
    """As timm is called: a name, its weights or none, no head, no pooling."""
    asked = []

    def create_model(name, **how):
        asked.append((name, how))
        return Mine()

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model, list_models=lambda: ["mini"]))
    for weights, pretrained in (("imagenet", True), ("none", False)):
        net = nets.body(with_net("timm:mini").backbone.architecture, weights)
        assert nets.channels(net, "timm:mini") == 24
        assert asked.pop() == ("mini", {"pretrained": pretrained, "num_classes": 0, "global_pool": ""})
    with pytest.raises(RecipeError, match="'timm:mimi': did you mean 'timm:mini'"):
        with_net("timm:mimi")


def test_timm_that_is_not_installed_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RecipeError, match="timm is not installed") as caught:
        with_net("timm:resnet18")
    assert "\n" not in str(caught.value)


def test_a_net_of_ones_own_is_trained_and_loaded(monkeypatch, pictures, tmp_path):
    monkeypatch.setitem(nets.NETS, "own:mine", Mine)
    train(with_net("own:mine"), pictures, tmp_path, ["ppcl"])
    model = ppcl.load(tmp_path, "person")
    assert isinstance(model.backbone.body, Mine) and model.backbone.channels == 24
    monkeypatch.delitem(nets.NETS, "own:mine")
    with pytest.raises(RuntimeError, match=r"NETS\['own:mine'\]"):
        ppcl.load(tmp_path, "person")


def test_a_small_net_may_know_many_people(monkeypatch, tmp_path):
    """Twenty-four numbers for each of 10,575, as many as CASIA-WebFace has."""
    monkeypatch.setitem(nets.NETS, "own:mine", Mine)
    chosen, path = with_net("own:mine"), evaluation.checkpoint(tmp_path, "person", "ppcl")
    facts = {"stage": "joint", "epoch": 1, "finished": True, "classes": 10_575, "fusion_weights": {}}
    checkpoints.save(path, PPCL(chosen, 10_575), None, recipe=chosen.to_dict(), **facts)
    assert ppcl.load(tmp_path).classes == 10_575


@pytest.mark.parametrize(
    "forward, words",
    [
        (lambda x: x.mean((2, 3)), r"\(1, 3\)"),
        (lambda x: x[:, :, ::8, ::8].movedim(1, -1), r"\(1, 8, 12, 3\)"),  # channels last
        (lambda x: x.view(1, 3, 7, 7), "shape"),
    ],
)
def test_what_is_no_map_is_refused_in_one_line(monkeypatch, forward, words):
    class Odd(nn.Module):
        def forward(self, x):
            return forward(x)

    monkeypatch.setitem(nets.NETS, "own:odd", Odd)
    with pytest.raises(RuntimeError, match=f"own:odd has no feature map.*{words}") as caught:
        nets.channels(nets.body("own:odd", "none"), "own:odd")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, near", [("resnet5", "resnet50"), ("smal", "small"), ("mobilenet_v3_larg", "v3_large")])
def test_an_unknown_name_gives_the_nearest(name, near):
    with pytest.raises(RecipeError, match=f"{name!r}: did you mean '.*{near}'"):
        with_net(name)


@pytest.mark.parametrize("name", ["small", "face34", "own:mine"])
def test_imagenet_weights_that_do_not_exist_are_said(monkeypatch, name):
    monkeypatch.setitem(nets.NETS, "own:mine", Mine)
    with pytest.raises(RuntimeError, match=f"no ImageNet weights for {name}"):
        nets.body(name, "imagenet")


def test_weights_that_cannot_be_fetched_name_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("no network"))
    )
    with pytest.raises(RuntimeError, match="no network.*backbone.weights=none"):
        nets.body("resnet18", "imagenet")


@pytest.mark.parametrize("content", [b"", b"\x00" * 1000, b"PK\x03\x04 cut off"])
def test_a_broken_download_is_named_with_the_remedy(monkeypatch, tmp_path, content):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    kept = tmp_path / "checkpoints" / url.rpartition("/")[2]
    kept.parent.mkdir()
    kept.write_bytes(content)
    with pytest.raises(RuntimeError, match=f"{kept} is damaged.*delete it") as caught:
        nets.body("resnet18", "imagenet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "body.", "model.body.", "model.backbone.body.", "module.model."]
)
@pytest.mark.parametrize("half", [False, True])
def test_weights_are_known_below_the_usual_wrappers(tmp_path, prefix, half):
    """A ResNet of torchvision's names, DataParallel's, other projects', and our own checkpoints', also in fp16."""
    torch.manual_seed(0)
    kind = "small" if "body" in prefix else "resnet50"
    net = nets.body("small", "none") if kind == "small" else torchvision.models.resnet50()
    state = {
        prefix + name: value.half() if half and value.is_floating_point() else value
        for name, value in net.state_dict().items()
    }
    save_file(state | {"optimiser.0.momentum_buffer": torch.zeros(1)}, tmp_path / "weights.safetensors")
    found = nets.body(kind, str(tmp_path / "weights.safetensors"))
    expected = next(net.parameters())
    torch.testing.assert_close(next(found.parameters()), expected, rtol=1e-3 * half, atol=1e-4 * half)


def with_nan(state):
    return state | {"0.weight": torch.full_like(state["0.weight"], float("nan"))}


@pytest.mark.parametrize(
    "write, words",
    [
        (lambda state, path: torch.save(state, path), "torch.save.*only safetensors.*save_file"),
        (lambda state, path: path.write_bytes(b"nothing"), "damaged or no safetensors file"),
        (lambda state, path: save_file(with_nan(state), path), "0.weight has numbers that are not finite"),
        (lambda state, path: save_file({"head.weight": torch.zeros(1)}, path), "lacks .* 0.weight first.*head.weight"),
        (lambda state, path: save_file({}, path), "lacks .*it has none"),
        (lambda state, path: save_file(state | {"0.weight": torch.zeros(1)}, path), r"0.weight has shape \(1,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path, write, words):
    path = tmp_path / "weights.pth"
    write(nets.body("small", "none").state_dict(), path)
    with pytest.raises(RuntimeError, match=f"backbone.weights={path}: .*{words}") as caught:
        nets.body("small", str(path))
    assert "\n" not in str(caught.value)


def test_weights_may_lie_in_the_home_folder_and_where_no_file_can_be_mapped(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENODEV, "No such device")

    save_file(nets.body("small", "none").state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("safetensors.torch.load_file", refused)
    chosen = recipe("person", "tiny", **{"backbone.weights": "~/weights.safetensors"})
    check_files(chosen)
    nets.body("small", chosen.backbone.weights)
