from __future__ import annotations

import numpy as np
import pytest
from caches import tiny
from images import photo, to_jpeg, to_png, truncated

from pipelines.errors import ShardError
from pipelines.images import preprocess
from pipelines.images.jpeg import JpegCodec, decode_jpeg
from pipelines.networks import forward, nodes
from pipelines.storage.variants import VariantRow

PROTOCOL = preprocess.for_backbone("raw", 8)
BRANCHES = ("original", "q010", "q050")
NAMES = ("avg_pool", "first", "second_relu")


def row(seed):
    pixels = photo(seed, (30, 40))
    variants = (to_png(pixels), *JpegCodec((10, 50), "4:2:0").encode(pixels))
    return VariantRow(f"cat/{seed}.png", 0, bytes(32), variants)


def prepare(rows, branches=BRANCHES, batch_size=4, max_megapixels=1.0):
    pixels = np.zeros((batch_size, len(branches), PROTOCOL.size, PROTOCOL.size, 3), np.uint8)
    for image, row in zip(pixels, rows, strict=False):
        forward.prepare_image(
            row, branches, PROTOCOL, forward.Decoding(max_megapixels, decode_jpeg), image
        )
    return pixels


@pytest.fixture(scope="module")
def front():
    backbone = tiny()
    found = [nodes.find_node(backbone.name, backbone.model, name) for name in NAMES]
    return nodes.front(backbone.model, found)


def pixels_of(num_images, num_branches, seed=0):
    shape = (num_images, num_branches, 8, 8, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_prepare_puts_each_version_in_its_branch():
    rows = [row(1), row(2)]
    found = prepare(rows, batch_size=2)
    assert (found.shape, found.dtype) == ((2, 3, 8, 8, 3), np.uint8)
    for i, seed in enumerate((1, 2)):
        np.testing.assert_array_equal(
            found[i, 0], preprocess.to_input(photo(seed, (30, 40)), PROTOCOL)
        )
        for j in (1, 2):
            decoded = decode_jpeg(rows[i].variants[j])
            np.testing.assert_array_equal(found[i, j], preprocess.to_input(decoded, PROTOCOL))
    assert (found[0, 1] != found[0, 2]).any()


def test_prepare_short_batch_is_padded_with_black():
    found = prepare([row(1)], batch_size=3)
    assert found.shape[0] == 3
    assert found[0].any()
    assert not found[1:].any()


@pytest.mark.parametrize(("broken", "branch"), [(0, "original"), (2, "q050")])
def test_prepare_damaged_version_raises_naming_variant_and_image(broken, branch):
    good = row(1)
    variants = list(good.variants)
    variants[broken] = truncated(variants[broken], 0.3)
    damaged = VariantRow(good.id, 0, good.sha256, tuple(variants))
    with pytest.raises(ShardError, match=rf"variant {branch} of cat/1\.png: .*compress again"):
        prepare([good, damaged])


def test_prepare_version_that_is_no_jpeg_raises():
    odd = VariantRow("cat/9.png", 0, bytes(32), (to_jpeg(photo()), b"", b""))
    with pytest.raises(ShardError, match=r"variant q010 of cat/9\.png"):
        prepare([odd])


def test_prepare_original_over_the_limit_raises():
    with pytest.raises(ShardError, match="variant original of"):
        prepare([row(1)], max_megapixels=0.001)


def images_in(num_images, num_branches, protocol=PROTOCOL):
    return forward.Batch(num_images, num_branches, (8, 8, 3), protocol)


def maps_in(node, num_images, num_branches):
    return forward.Batch(num_images, num_branches, node.shape, None)


def node_of(name):
    return nodes.find_node("tiny", tiny().model, name)


def test_batch_of_images_is_bytes_and_of_maps_is_floats():
    images, maps = images_in(2, 3), maps_in(node_of("second_relu"), 4, 5)
    assert (images.full_shape, images.dtype) == ((2, 3, 8, 8, 3), "uint8")
    assert (maps.full_shape, maps.dtype) == ((4, 5, 8, 8, 7), "float32")


def test_build_gives_each_nodes_maps_in_the_order_of_names(front):
    pixels = pixels_of(2, 3)
    found = forward.build(front, NAMES, images_in(2, 3))(pixels)
    assert [maps.shape for maps in found] == [(2, 3, 7), (2, 3, 8, 8, 6), (2, 3, 8, 8, 7)]
    images = pixels.reshape(6, 8, 8, 3).astype(np.float32)
    expected = front(images, training=False)
    for name, maps in zip(NAMES, found, strict=True):
        assert maps.dtype == np.float32
        np.testing.assert_allclose(
            maps.reshape(6, *maps.shape[2:]), expected[name], rtol=1e-5, atol=1e-4
        )


def test_build_scales_pixels_as_the_protocol_says(front):
    pixels = pixels_of(1, 1)
    protocol = preprocess.for_backbone("symmetric", 8)
    (found,) = forward.build(front, ["first"], images_in(1, 1, protocol))(pixels)
    expected = front(pixels[0].astype(np.float32) / 127.5 - 1, training=False)["first"]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)


def test_build_same_batch_twice_gives_same_bytes_whatever_pads_it(front):
    run = forward.build(front, ["second_relu"], images_in(4, 3))
    pixels = pixels_of(4, 3)
    padded = pixels.copy()
    padded[2:] = 0
    (whole,), (short,) = run(pixels), run(padded)
    assert whole[:2].tobytes() == short[:2].tobytes()


def test_build_other_batch_shape_gives_same_numbers_within_1e_5(front):
    pixels = pixels_of(4, 3)
    (whole,) = forward.build(front, ["second_relu"], images_in(4, 3))(pixels)
    (single,) = forward.build(front, ["second_relu"], images_in(1, 3))(pixels[2:3])
    assert np.abs(single[0] - whole[2]).max() <= 1e-5 * np.abs(whole[2]).max()


def test_build_refuses_another_batch_shape(front):
    run = forward.build(front, ["avg_pool"], images_in(2, 3))
    with pytest.raises(TypeError, match=r"3, 8, 8, 3"):
        run(pixels_of(1, 3))


def test_build_from_a_nodes_maps_gives_those_behind_it(front):
    pixels, start = pixels_of(2, 3), node_of("first")
    pooled, first, _ = forward.build(front, NAMES, images_in(2, 3))(pixels)
    part = nodes.between(tiny().model, start, [node_of("avg_pool")])
    (found,) = forward.build(part, ["avg_pool"], maps_in(start, 2, 3))(first)
    assert found.shape == pooled.shape
    np.testing.assert_allclose(found, pooled, rtol=1e-5)


def test_build_scores_are_the_decision_layers_before_its_softmax():
    pixels = pixels_of(2, 3)
    way = nodes.to_decision(tiny().model)
    kernel, bias = nodes.classifier(tiny().model)
    found = forward.build_scores(way, kernel, bias, images_in(2, 3))(pixels)
    assert (found.shape, found.dtype) == ((2, 3, 5), np.float32)
    features = np.asarray(way(pixels.reshape(6, 8, 8, 3).astype(np.float32), training=False))
    np.testing.assert_allclose(found.reshape(6, 5), features @ kernel + bias, rtol=1e-5)


@pytest.mark.parametrize("name", ["first", "second_relu", "avg_pool"])
def test_build_scores_from_a_nodes_maps_are_those_from_the_images(front, name):
    pixels, start = pixels_of(2, 3), node_of(name)
    classifier = nodes.classifier(tiny().model)
    way = nodes.to_decision(tiny().model)
    expected = forward.build_scores(way, *classifier, images_in(2, 3))(pixels)
    (maps,) = forward.build(front, [name], images_in(2, 3))(pixels)
    behind = nodes.to_decision(tiny().model, start)
    found = forward.build_scores(behind, *classifier, maps_in(start, 2, 3))(maps)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
