import pytest
import torch

from rayrlhf.weight_sync.digests import digest, response


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 3, 1001, (1 << 20) + 5])
def test_a_digest_sees_one_changed_element_and_two_swapped(dtype, size):
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert digest(tensor) == digest(tensor.clone())
    changed = tensor.clone()
    changed[-1] += 1
    assert digest(changed) != digest(tensor)
    if size > 1:
        swapped = tensor.clone()
        swapped[[0, 1]] = tensor[[1, 0]]
        assert digest(swapped) != digest(tensor)


def test_a_response_is_the_product_with_a_seeded_vector():
    weight = torch.randn(5, 8)
    assert response(weight).shape == (5,)
    torch.testing.assert_close(response(2 * weight), 2 * response(weight))
    torch.testing.assert_close(response(weight[:, 0]), weight[:, 0])
