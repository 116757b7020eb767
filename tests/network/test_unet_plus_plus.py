import torch

from pipeline.network import NetworkConfig, build_network, count_parameters


def config(**values):
    return NetworkConfig(name="unet_plus_plus", features=(4, 8, 16, 32), **values)


def test_number_of_parameters():
    """Node (i, j) takes j earlier nodes and an upsampled one."""

    def stage(num_in, width):
        return 27 * width * (num_in + width) + 4 * width

    features = config().features
    expected = 3 * (4 + 1)
    for before, width in zip((2, *features), features, strict=False):
        expected += stage(before, width)
    for i in range(3):
        for j in range(1, 4 - i):
            expected += stage((j + 1) * features[i], features[i])
            expected += 8 * features[i] * features[i + 1]
    assert count_parameters(build_network(config(), 2, 3)) == expected


def test_nodes_are_those_of_the_paper():
    assert set(build_network(config(), 1, 2).nodes) == {"0_1", "0_2", "0_3", "1_1", "1_2", "2_1"}


def test_every_depth_is_a_network_of_its_own():
    """The head of node (0, j) sees j levels: what lies deeper does not change its logits."""
    network = build_network(config(deep_supervision=True), 1, 2).train()
    image = torch.randn(1, 1, 16, 16, 16)
    before = network(image)
    with torch.no_grad():
        network.encoder[3][0][0].weight.neg_()
    after = network(image)
    assert not torch.equal(after[0], before[0])
    for found, expected in zip(after[1:], before[1:], strict=True):
        torch.testing.assert_close(found, expected)
    with torch.no_grad():
        network.encoder[2][0][0].weight.neg_()
    last = network(image)
    assert not torch.equal(last[1], before[1])
    torch.testing.assert_close(last[2], before[2])
