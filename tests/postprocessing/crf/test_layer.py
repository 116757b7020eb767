import numpy as np
import pytest
import torch

from pipeline.postprocessing.crf import CrfConfig, lattice
from pipeline.postprocessing.crf.band import band_of_probabilities
from pipeline.postprocessing.crf.kernels import choose_kernels
from pipeline.postprocessing.crf.layer import CrfLayer
from pipeline.postprocessing.crf.problem import Limits, Problem, infer_band

CPU = torch.device("cpu")
SPACING_MM = (1.0, 1.5, 2.0)
THREE = ((0.0, 0.7, 1.2), (0.9, 0.0, 1.4), (1.1, 0.6, 0.0))
"""Of three classes; neither symmetric nor with a common cost."""


def make_patch(num_classes, size=(12, 10, 8), num_channels=1, dtype=torch.float32):
    """Return an image with an edge, and noisy logits that follow it; no class is near certain."""
    generator = torch.Generator().manual_seed(num_classes)
    image_BMIJK = torch.rand(1, num_channels, *size, generator=generator, dtype=dtype)
    image_BMIJK[:, :, size[0] // 2 :] += 1
    logits_BCIJK = torch.randn(1, num_classes, *size, generator=generator, dtype=dtype)
    logits_BCIJK[:, 1, size[0] // 2 :] += 0.5
    return image_BMIJK, logits_BCIJK


def shares_of_the_field(config, image_BMIJK, logits_BCIJK, backend="torch"):
    """Return the `(C, I, J, K)` shares that the field after the network ends with."""
    probability_CIJK = logits_BCIJK[0].softmax(dim=0)
    band, class_IJK = band_of_probabilities(probability_CIJK)
    assert len(band.voxel_N) == class_IJK.numel()
    num_classes = len(probability_CIJK)
    problem = Problem(image_BMIJK[0], band, class_IJK, num_classes, SPACING_MM)
    kernels = choose_kernels(backend, CPU, torch.float32)
    _, share_NS = infer_band(problem, config, kernels, Limits(2**30))
    share_SN = share_NS.T[: num_classes - 1]
    return torch.cat([1 - share_SN.sum(dim=0)[None], share_SN]).view_as(probability_CIJK)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize(
    ("num_classes", "num_channels", "changes"),
    [
        (2, 1, {}),
        (3, 1, {"compatibility": THREE}),
        (3, 2, {"normalisation": "symmetric", "iterations": 2}),
        (7, 1, {"weight_smoothness": 0.0, "theta_position_mm": 2.5}),
        (3, 1, {"weight_appearance": 0.0}),
    ],
)
def test_it_is_the_field_of_a_band_that_holds_all_voxels(
    num_classes, num_channels, changes, backend
):
    if backend == "numba":
        pytest.importorskip("numba")
    config = CrfConfig(**({"weight_appearance": 3.0, "weight_smoothness": 2.0} | changes))
    image_BMIJK, logits_BCIJK = make_patch(num_classes, num_channels=num_channels)
    layer = CrfLayer(config, num_classes, SPACING_MM, backend)
    refined_BCIJK = layer(image_BMIJK, logits_BCIJK)
    expected_CIJK = shares_of_the_field(config, image_BMIJK, logits_BCIJK, backend)
    found_CIJK = refined_BCIJK[0].softmax(dim=0)
    torch.testing.assert_close(found_CIJK, expected_CIJK, atol=1e-4, rtol=0)
    assert (found_CIJK - logits_BCIJK[0].softmax(dim=0)).abs().max() > 0.1


def test_many_classes_are_filtered_in_parts():
    """The sum over ten foreground classes, taken eight and two at a time."""
    config = CrfConfig(weight_appearance=0.0, iterations=1)
    image_BMIJK, logits_BCIJK = make_patch(11, size=(6, 5, 4))
    shares_CIJK = CrfLayer(config, 11, SPACING_MM)(image_BMIJK, logits_BCIJK)[0].softmax(dim=0)
    for first in (1, 9):
        others = [c for c in range(1, 11) if c != first]
        order = [0, *others, first]
        moved = CrfLayer(config, 11, SPACING_MM)(image_BMIJK, logits_BCIJK[:, order])
        torch.testing.assert_close(moved[0].softmax(dim=0), shares_CIJK[order])


@pytest.mark.parametrize("normalisation", ["row", "symmetric"])
def test_gradients_are_those_of_finite_differences(normalisation):
    """Of the logits, the weights of both kernels, and the compatibility."""
    config = CrfConfig(
        theta_position_mm=3.0,
        weight_appearance=1.5,
        weight_smoothness=0.7,
        iterations=3,
        normalisation=normalisation,
        compatibility=THREE,
    )
    image_BMIJK, logits_BCIJK = make_patch(3, size=(4, 3, 2), dtype=torch.float64)
    layer = CrfLayer(config, 3, SPACING_MM).double()
    names = [name for name, _ in layer.named_parameters()]
    assert set(names) == {"cost_CC", "log_weights.appearance", "log_weights.smoothness"}

    def refine(logits_BCIJK, *parameters):
        replaced = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, replaced, (image_BMIJK, logits_BCIJK))

    inputs = [logits_BCIJK, *(p.detach() for p in layer.parameters())]
    assert torch.autograd.gradcheck(refine, [each.requires_grad_() for each in inputs])


@pytest.mark.parametrize("normalisation", ["row", "symmetric"])
def test_compiled_code_has_the_same_gradients(normalisation):
    pytest.importorskip("numba")
    found = []
    for backend in ("torch", "numba"):
        image_BMIJK, logits_BCIJK = make_patch(3)
        layer = CrfLayer(CrfConfig(normalisation=normalisation), 3, SPACING_MM, backend)
        refined_BCIJK = layer(image_BMIJK, logits_BCIJK.requires_grad_())
        refined_BCIJK.log_softmax(dim=1)[:, 1].mean().backward()
        found.append([logits_BCIJK.grad, *(p.grad for p in layer.parameters())])
    for of_torch, of_numba in zip(*found, strict=True):
        torch.testing.assert_close(of_numba, of_torch, atol=1e-6, rtol=1e-3)


def test_each_patch_of_a_batch_is_refined_by_its_own_image():
    config = CrfConfig(iterations=2)
    layer = CrfLayer(config, 2, SPACING_MM)
    pairs = [make_patch(2), (5 * make_patch(3)[0].flip(2), make_patch(2)[1].flip(3))]
    both = layer(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))
    for index, pair in enumerate(pairs):
        torch.testing.assert_close(both[index], layer(*pair)[0])


def test_what_learnt_is_a_configuration_of_the_field():
    """Costs that change all classes alike go; the field after the network is the same."""
    layer = CrfLayer(CrfConfig(iterations=3), 3, SPACING_MM)
    with torch.no_grad():
        layer.log_weights["appearance"].fill_(np.log(2.5))
        layer.log_weights["smoothness"].fill_(np.log(0.5))
        layer.cost_CC.copy_(torch.tensor(THREE) + torch.tensor([0.3, -0.2, 0.1]))
    config = layer.learned_config()
    assert config.weight_appearance == pytest.approx(2.5)
    assert config.weight_smoothness == pytest.approx(0.5)
    np.testing.assert_allclose(config.compatibility, THREE, atol=1e-6)
    assert config.model_copy(
        update={"weight_appearance": 3.0, "weight_smoothness": 1.0, "compatibility": None}
    ) == CrfConfig(iterations=3)
    assert CrfConfig.model_validate(config.model_dump(mode="json")) == config
    image_BMIJK, logits_BCIJK = make_patch(3)
    torch.testing.assert_close(
        layer(image_BMIJK, logits_BCIJK)[0].softmax(dim=0),
        shares_of_the_field(config, image_BMIJK, logits_BCIJK),
        atol=1e-4,
        rtol=0,
    )


def test_a_kernel_without_weight_stays_off_and_many_classes_keep_their_compatibility():
    layer = CrfLayer(CrfConfig(weight_smoothness=0.0), 9, SPACING_MM)
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == [
        "log_weights.appearance"
    ]
    learned = layer.learned_config()
    assert learned.weight_smoothness == 0
    assert learned.compatibility is None


def test_without_kernels_logits_stay_as_they_are():
    layer = CrfLayer(CrfConfig(weight_appearance=0.0, weight_smoothness=0.0), 2, SPACING_MM)
    image_BMIJK, logits_BCIJK = make_patch(2)
    assert torch.equal(layer(image_BMIJK, logits_BCIJK), logits_BCIJK)


def test_it_computes_in_float32_under_autocast():
    layer = CrfLayer(CrfConfig(iterations=1), 2, SPACING_MM)
    image_BMIJK, logits_BCIJK = (each.bfloat16() for each in make_patch(2))
    expected = layer(image_BMIJK.float(), logits_BCIJK.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(image_BMIJK, logits_BCIJK)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_the_unit_of_intensities_is_measured_where_no_class_is_certain(monkeypatch):
    """In a whole patch of certainty, everywhere."""
    asked = []

    def measure(image_MIJK, voxel_N, theta, unit):
        asked.append(voxel_N.tolist())
        return lattice.measure(image_MIJK, voxel_N, theta, unit)

    monkeypatch.setattr("pipeline.postprocessing.crf.layer.measure", measure)
    image_BMIJK, logits_BCIJK = make_patch(2, size=(4, 3, 2))
    layer = CrfLayer(CrfConfig(iterations=1), 2, SPACING_MM)
    logits_BCIJK[:, 1, :3] += 30
    layer(image_BMIJK, logits_BCIJK)
    logits_BCIJK[:, 1, 3:] += 30
    layer(image_BMIJK, logits_BCIJK)
    assert asked == [list(range(18, 24)), list(range(24))]


def test_another_number_of_classes_is_refused():
    with pytest.raises(ValueError, match="compatibility is for 3 classes, not for 2"):
        CrfLayer(CrfConfig(compatibility=THREE), 2, SPACING_MM)
